"""Linear correlation between partitions."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from menvae.metrics import Direction, Interval, Metric, SplitRecord
from menvae.metrics.pairs import constant_partitions, pairs, spaced_means
from menvae.registry import register
from menvae.statistics.distance_correlation import MIN_ROWS


@register("metric", "correlation")
class PartitionCorrelation(Metric):
    """Mean absolute Pearson correlation between the dimensions of two partitions: ``indep/corr_<a>_<b>``.

    It averages over all pairs of a dimension of a and one of b. By chance alone it is about sqrt(2 / (pi N)).
    """

    direction: ClassVar[Direction | None] = "lower"
    range = (0.0, 1.0)
    needs = frozenset({"mean"})
    min_subjects = MIN_ROWS
    interval: ClassVar[Interval | None] = "jackknife"
    absent = f"it needs at least {MIN_ROWS} subjects and partitions that vary"

    def meaning(self, key: str) -> str:
        """Name the pair."""
        a, b = next(pair for pair in pairs(self.context.layout) if key == "indep/corr_{}_{}".format(*pair))
        return f"Mean absolute Pearson correlation between the dimensions of {a} and {b}."

    def names(self) -> list[str]:
        """One key per pair."""
        return [f"indep/corr_{a}_{b}" for a, b in pairs(self.context.layout)]

    def compute(self, record: SplitRecord) -> dict[str, float | None]:
        """Return the value of each pair, None for a constant partition; constant dimensions correlate with nothing."""
        means, layout = spaced_means(record), self.context.layout
        centred = means - means.mean(axis=0)
        norms = np.linalg.norm(centred, axis=0)
        scaled = np.divide(centred, norms, out=np.zeros_like(centred), where=norms > 0)
        correlation = np.minimum(np.abs(scaled.T @ scaled), 1.0)
        constant = constant_partitions(means, layout)
        return {
            f"indep/corr_{a}_{b}": None
            if {a, b} & constant
            else float(correlation[slice(*layout.bounds(a)), slice(*layout.bounds(b))].mean())
            for a, b in pairs(layout)
        }
