"""Variance of latents between subjects."""

from __future__ import annotations

import math
from typing import ClassVar

from menvae.metrics import Direction, Metric, SplitRecord
from menvae.registry import register


@register("metric", "latent_variance")
class LatentVariance(Metric):
    """Variance of the posterior mean over the split, averaged over the dimensions: ``diag/mu_var_mean``."""

    direction: ClassVar[Direction | None] = None
    range = (0.0, math.inf)
    needs = frozenset({"mean"})
    min_subjects = 2
    absent = "a single subject has no variance"

    def names(self) -> list[str]:
        """One key."""
        return ["diag/mu_var_mean"]

    def compute(self, record: SplitRecord) -> dict[str, float | None]:
        """Return the mean variance."""
        return {"diag/mu_var_mean": float(record.arrays["mean"].var(axis=0).mean())}
