"""Distance correlation between partitions."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch

from menvae.metrics import Direction, Floats, Interval, LeavingOut, Metric, SplitRecord
from menvae.metrics.pairs import MOST_ROWS, constant_partitions, one_visit_each, pairs
from menvae.registry import register
from menvae.statistics.distance_correlation import signed_root
from menvae.statistics.pairwise import MIN_ROWS, LeaveOut, distances, normalised
from menvae.statistics.patients import Indices, spaced


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
        return dict(self.leaving_out(record)(np.zeros(0, dtype=np.intp)))

    def leaving_out(self, record: SplitRecord) -> LeavingOut:
        """Return a function for the jackknife, whose calls share all distances."""
        layout, means = self.context.layout, record.arrays["mean"]
        turns = [spaced(rows, MOST_ROWS) for rows in one_visit_each(record)]
        blocks = [layout.split(torch.from_numpy(means[rows])).values() for rows in turns]
        products = [LeaveOut(torch.stack([distances(block) for block in each])) for each in blocks]

        def without(rows: Indices) -> dict[str, float | None]:
            out = [torch.from_numpy(np.flatnonzero(np.isin(turn, rows))) for turn in turns]
            if min(len(turn) - len(gone) for turn, gone in zip(turns, out, strict=True)) < MIN_ROWS:
                return dict.fromkeys(self.names())
            squared = [normalised(*of(gone)) for of, gone in zip(products, out, strict=True)]
            constant = constant_partitions(np.delete(means, rows, axis=0), layout)
            return self._values(signed_root(torch.stack(squared).mean(dim=0)).numpy(), constant)

        return without

    def _values(self, dcor: Floats, constant: set[str]) -> dict[str, float | None]:
        names = list(self.context.layout)
        values: dict[str, float | None] = {
            f"indep/dcor_{a}_{b}": None if {a, b} & constant else float(dcor[names.index(a), names.index(b)])
            for a, b in pairs(self.context.layout)
        }
        known = [abs(value) for value in values.values() if value is not None]
        return {**values, "indep/max_dcor": max(known) if len(known) == len(values) else None}

    def to_linear(self, value: float) -> float:
        """Square it and keep the sign: the root has no derivative at 0, so that its error is not normal there."""
        return math.copysign(value**2, value)

    def from_linear(self, value: float) -> float:
        """Take the root and keep the sign."""
        return math.copysign(math.sqrt(abs(value)), value)
