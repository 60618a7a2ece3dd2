"""Schedules: pure functions of progress, written for ``curriculum.reference_epochs``; learning rates use them too."""

from __future__ import annotations

from typing import Protocol

from menvae.types import Progress


class Schedule(Protocol):
    """A factor as a function of progress."""

    def __call__(self, progress: Progress) -> float:
        """Return the factor that multiplies a weight or a learning rate now."""
