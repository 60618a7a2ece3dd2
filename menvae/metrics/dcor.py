"""Distance correlation between partitions."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from menvae.metrics import Direction, Interval, Metric, SplitRecord
from menvae.metrics.pairs import constant_partitions, one_visit_each, pairs, spaced_means
from menvae.registry import register
from menvae.statistics.distance_correlation import MIN_ROWS, signed_root, u_distance_correlations_sqr


@register("metric", "dcor", reference="Szekely & Rizzo 2014")
class PartitionDcor(Metric):
    """Distance correlation of each pair of partitions, and its maximum: ``indep/dcor_<a>_<b>``, ``indep/max_dcor``.

    Values are sign(x) sqrt|x| of the bias-corrected squared distance correlation, around 0 for independent partitions;
    ``max_dcor`` is the largest absolute value. A constant partition is not independent but empty: it has no value, and
    neither has the maximum. Of a cohort over time, it is the mean of squares over sets of one visit of each patient.
    """

    direction: ClassVar[Direction | None] = "lower"
    range = (-1.0, 1.0)
    needs = frozenset({"mean"})
    min_subjects = MIN_ROWS
    interval: ClassVar[Interval | None] = "jackknife"
    absent = f"the estimator needs at least {MIN_ROWS} patients and partitions that vary"

    def meaning(self, key: str) -> str:
        """Name the pair, or the maximum."""
        if key == "indep/max_dcor":
            return "Largest distance correlation between two partitions; 0 means independence."
        first, second = next(pair for pair in pairs(self.context.layout) if key == "indep/dcor_{}_{}".format(*pair))
        return f"Distance correlation of {first} and {second}; 0 means independence."

    def names(self) -> list[str]:
        """One key per pair and one for all; none for a single partition."""
        found = [f"indep/dcor_{a}_{b}" for a, b in pairs(self.context.layout)]
        return [*found, "indep/max_dcor"] if found else []

    def compute(self, record: SplitRecord) -> dict[str, float | None]:
        """Return the value of each pair and the largest absolute one."""
        turns = one_visit_each(record)
        if len(turns[0]) < MIN_ROWS:
            return dict.fromkeys(self.names())
        constant = constant_partitions(record.arrays["mean"], self.context.layout)
        names = list(self.context.layout)
        squared = torch.stack([self._squared(record.rows(turn)) for turn in turns])
        dcor = signed_root(squared.mean(dim=0)).numpy()
        values: dict[str, float | None] = {
            f"indep/dcor_{a}_{b}": None if {a, b} & constant else float(dcor[names.index(a), names.index(b)])
            for a, b in pairs(self.context.layout)
        }
        known = [abs(value) for value in values.values() if value is not None]
        return {**values, "indep/max_dcor": max(known) if len(known) == len(values) else None}

    def _squared(self, record: SplitRecord) -> Tensor:
        """Return squared correlations [partitions, partitions] of rows of different patients."""
        blocks = self.context.layout.split(torch.from_numpy(spaced_means(record)))
        return u_distance_correlations_sqr(list(blocks.values()))

    def to_linear(self, value: float) -> float:
        """Square it and keep the sign: the root has no derivative at 0, so that its error is not normal there."""
        return math.copysign(value**2, value)

    def from_linear(self, value: float) -> float:
        """Take the root and keep the sign."""
        return math.copysign(math.sqrt(abs(value)), value)
