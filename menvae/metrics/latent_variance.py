"""Variance of latents between subjects."""

from __future__ import annotations

import math
from typing import ClassVar

from menvae.metrics import Direction, Means, SplitRecord
from menvae.metrics.means import MetricOfMeans, moments, variances
from menvae.registry import register


@register("metric", "latent_variance")
class LatentVariance(MetricOfMeans):
    """Variance of the posterior mean over the split, averaged over the dimensions: ``diag/mu_var_mean``."""

    direction: ClassVar[Direction | None] = None
    range = (0.0, math.inf)
    needs = frozenset({"mean"})
    min_subjects = 2
    absent = "a single subject has no variance"

    def names(self) -> list[str]:
        """One key."""
        return ["diag/mu_var_mean"]

    def means(self, record: SplitRecord) -> Means:
        """Average the first two moments of the posterior means."""
        return Means(moments(record.arrays["mean"]), lambda means: {"diag/mu_var_mean": variances(means).mean(axis=1)})
