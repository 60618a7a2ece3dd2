"""Schedules of weights and learning rates: pure functions of progress, in reference epochs."""

from __future__ import annotations

from typing import Protocol

from menvae.types import Progress


class Schedule(Protocol):
    """A factor as a function of progress."""

    def __call__(self, progress: Progress) -> float:
        """Return the factor on a weight or learning rate at ``progress``."""
