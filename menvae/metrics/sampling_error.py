"""Cost of sampling z."""

from __future__ import annotations

from typing import ClassVar

from menvae.metrics import Direction, Metric, SplitRecord
from menvae.metrics.decoding import mean_errors
from menvae.registry import register


@register("metric", "sampling_error")
class SamplingError(Metric):
    """Mean squared error from a posterior sample minus that from the mean: ``diag/recon_delta_mu_vs_sampled``."""

    direction: ClassVar[Direction | None] = "lower"
    needs = frozenset({"errors"})

    def names(self) -> list[str]:
        """One key."""
        return ["diag/recon_delta_mu_vs_sampled"]

    def compute(self, record: SplitRecord) -> dict[str, float | None]:
        """Return the difference."""
        means = mean_errors(record)
        known = "sampled" in means and "mu" in means
        return {"diag/recon_delta_mu_vs_sampled": means["sampled"] - means["mu"] if known else None}
