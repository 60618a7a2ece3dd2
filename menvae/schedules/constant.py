"""Constant factor."""

from __future__ import annotations

from typing import Annotated

from menvae.registry import Field, register
from menvae.types import Progress


@register("schedule", "constant")
class Constant:
    """``value`` from the first step to the last."""

    def __init__(self, *, value: Annotated[float, Field(ge=0.0)] = 1.0) -> None:
        """Args: value: the factor."""
        self.value = value

    def __call__(self, progress: Progress) -> float:
        """Return ``value``."""
        return self.value
