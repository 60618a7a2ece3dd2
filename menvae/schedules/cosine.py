"""Cosine decay after a linear warm-up, the usual learning-rate schedule."""

from __future__ import annotations

import math
from typing import Annotated

from menvae.registry import Field, register
from menvae.types import Progress


@register("schedule", "cosine", reference="Loshchilov & Hutter 2017")
class Cosine:
    """Rise linearly to 1 over ``warmup``, then follow half a cosine to ``final`` at the end of the run."""

    def __init__(
        self,
        *,
        warmup: Annotated[float, Field(ge=0.0)] = 1.0,
        final: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0,
    ) -> None:
        """Args: warmup: length of the rise in reference epochs. final: factor at the end of the run."""
        self.warmup, self.final = warmup, final

    def __call__(self, progress: Progress) -> float:
        """Return the factor at ``progress``."""
        if progress.epoch < self.warmup:
            return progress.epoch / self.warmup
        share = min(1.0, (progress.epoch - self.warmup) / max(1e-12, progress.total_epochs - self.warmup))
        return self.final + (1.0 - self.final) * 0.5 * (1.0 + math.cos(math.pi * share))
