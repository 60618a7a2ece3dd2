"""Cyclical annealing with a final plateau."""

from __future__ import annotations

from typing import Annotated

from menvae.registry import Field, register
from menvae.types import Progress


@register("schedule", "cyclical", reference="Fu et al. 2019")
class Cyclical:
    """``cycles`` equal cycles over ``length``; each rises linearly from 0 to 1 over a share ``ratio``, then stays at 1.

    After ``length`` the factor stays at 1.
    """

    def __init__(
        self,
        *,
        cycles: Annotated[int, Field(ge=1)] = 4,
        length: Annotated[float, Field(gt=0.0)] = 240.0,
        ratio: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5,
    ) -> None:
        """Args: cycles: number of cycles. length: total, in reference epochs. ratio: rising share of a cycle."""
        self.cycles, self.length, self.ratio = cycles, length, ratio

    def __call__(self, progress: Progress) -> float:
        """Return the factor at ``progress``."""
        if progress.epoch >= self.length:
            return 1.0
        position = progress.epoch / self.length * self.cycles % 1.0
        return min(1.0, position / self.ratio)
