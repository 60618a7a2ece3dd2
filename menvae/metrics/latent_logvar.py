"""Log variance of the posterior."""

from __future__ import annotations

from typing import ClassVar

from menvae.metrics import Direction, Metric, SplitRecord
from menvae.registry import register


@register("metric", "latent_logvar")
class LatentLogvar(Metric):
    """Log variance of the posterior, averaged over subjects and dimensions: ``diag/logvar_mean``."""

    direction: ClassVar[Direction | None] = None
    needs = frozenset({"logvar"})

    def names(self) -> list[str]:
        """One key."""
        return ["diag/logvar_mean"]

    def compute(self, record: SplitRecord) -> dict[str, float | None]:
        """Return the mean log variance."""
        return {"diag/logvar_mean": float(record.arrays["logvar"].mean())}
