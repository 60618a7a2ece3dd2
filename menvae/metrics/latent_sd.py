"""Standard deviation of the aggregate posterior, 1 under the prior."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from menvae.metrics import Direction, Metric, SplitRecord
from menvae.registry import register


@register("metric", "latent_sd")
class LatentSd(Metric):
    """Standard deviation of z over the split, averaged over the dimensions: ``diag/z_std``.

    The variance of the mixture of all posteriors is their mean variance plus the variance of their means.
    """

    direction: ClassVar[Direction | None] = None
    range = (0.0, math.inf)
    needs = frozenset({"mean", "logvar"})

    def names(self) -> list[str]:
        """One key."""
        return ["diag/z_std"]

    def compute(self, record: SplitRecord) -> dict[str, float | None]:
        """Return the mean standard deviation."""
        within, between = np.exp(record.arrays["logvar"]).mean(axis=0), record.arrays["mean"].var(axis=0)
        return {"diag/z_std": float(np.sqrt(within + between).mean())}
