"""Warm-up that rises fast at first and levels off."""

from __future__ import annotations

import math
from typing import Annotated

from menvae.registry import Field, register
from menvae.types import Progress


@register("schedule", "exponential", reference="SemiVAE, recommendations after Run 6")
class Exponential:
    """0 until ``start``, then 1 - exp(-rate t), with t from 0 to 1 over ``length`` and constant afterwards."""

    def __init__(
        self,
        *,
        start: Annotated[float, Field(ge=0.0)] = 0.0,
        length: Annotated[float, Field(gt=0.0)] = 40.0,
        rate: Annotated[float, Field(gt=0.0)] = 5.0,
    ) -> None:
        """Choose the curve.

        Args:
            start: last reference epoch at which the factor is 0.
            length: length of the rise in reference epochs.
            rate: initial slope relative to a linear rise to 1.
        """
        self.start, self.length, self.rate = start, length, rate

    def __call__(self, progress: Progress) -> float:
        """Return the factor at ``progress``; the plateau is 1 - exp(-rate), 0.993 at the report's rate of 5."""
        share = min(1.0, max(0.0, (progress.epoch - self.start) / self.length))
        return 1.0 - math.exp(-self.rate * share)
