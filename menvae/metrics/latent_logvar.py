"""Log variance of the posterior."""

from __future__ import annotations

from typing import ClassVar

from menvae.metrics import Direction, Means, SplitRecord
from menvae.metrics.means import MetricOfMeans, observed, ratios
from menvae.registry import register


@register("metric", "latent_logvar")
class LatentLogvar(MetricOfMeans):
    """Log variance of the posterior, averaged over subjects and dimensions: ``diag/logvar_mean``."""

    direction: ClassVar[Direction | None] = None
    needs = frozenset({"logvar"})

    def names(self) -> list[str]:
        """One key."""
        return ["diag/logvar_mean"]

    def means(self, record: SplitRecord) -> Means:
        """Average over subjects and dimensions."""
        return ratios({"diag/logvar_mean": observed(record.arrays["logvar"].mean(axis=1))})
