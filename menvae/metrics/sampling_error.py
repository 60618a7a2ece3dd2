"""Cost of sampling z."""

from __future__ import annotations

from typing import ClassVar

from menvae.metrics import Direction, Means, SplitRecord
from menvae.metrics.means import MetricOfMeans, errors_of, observed, ratios
from menvae.registry import register


@register("metric", "sampling_error")
class SamplingError(MetricOfMeans):
    """Mean squared error from a posterior sample minus that from the mean: ``diag/recon_delta_mu_vs_sampled``."""

    direction: ClassVar[Direction | None] = "lower"
    needs = frozenset({"errors"})

    def names(self) -> list[str]:
        """One key."""
        return ["diag/recon_delta_mu_vs_sampled"]

    def means(self, record: SplitRecord) -> Means:
        """Average the differences over subjects."""
        errors = errors_of(record)
        return ratios({"diag/recon_delta_mu_vs_sampled": observed(errors["sampled"] - errors["mu"])})
