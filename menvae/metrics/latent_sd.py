"""Standard deviation of the aggregate posterior, 1 under the prior."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from menvae.metrics import Direction, Floats, Means, SplitRecord
from menvae.metrics.means import MetricOfMeans, moments, variances
from menvae.registry import register


@register("metric", "latent_sd")
class LatentSd(MetricOfMeans):
    """Standard deviation of z over the split, averaged over the dimensions: ``diag/z_std``.

    The variance of the mixture of all posteriors is their mean variance plus the variance of their means.
    """

    direction: ClassVar[Direction | None] = None
    range = (0.0, math.inf)
    needs = frozenset({"mean", "logvar"})

    def names(self) -> list[str]:
        """One key."""
        return ["diag/z_std"]

    def means(self, record: SplitRecord) -> Means:
        """Average the variances of the posterior, and the first two moments of its means."""
        within, mean = np.exp(record.arrays["logvar"]), record.arrays["mean"]
        size = within.shape[1]

        def values(means: Floats) -> dict[str, Floats]:
            return {"diag/z_std": np.sqrt(means[:, :size] + variances(means[:, size:])).mean(axis=1)}

        return Means(np.concatenate([within, moments(mean)], axis=1), values)
