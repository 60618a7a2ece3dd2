"""Permutation tests of the independence of partitions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from menvae.metrics import Direction, Findings, Metric, MetricContext, SplitRecord, When
from menvae.metrics.pairs import one_visit_each, pairs
from menvae.registry import Field, register
from menvae.statistics.distance_correlation import MIN_ROWS, signed_root
from menvae.statistics.estimate import Estimate
from menvae.statistics.independence import MIN_ARRANGEMENTS, NUM_PERMUTATIONS, IndependenceTest, dcor_test, hsic_test
from menvae.statistics.patients import spaced
from menvae.statistics.sliced import most_dependent_directions, sliced_dcor_test

TABLE = "independence"
"""Name of the table of all pairs."""
MOST_ROWS = 1024
"""Larger splits are subsampled to evenly spaced rows: tests of more need gigabytes."""
MOST_TRAINING_ROWS = 4096
"""Training subjects, evenly spaced, among whom directions are sought."""
_NO_INTERVAL = "no interval: a p-value says what chance gives"


class _Statistic(NamedTuple):
    name: str
    means: str


_STATISTICS = (
    _Statistic("dcor", "distance correlation"),
    _Statistic("hsic", "normalised HSIC"),
    _Statistic("sliced_dcor", "distance correlation of the most dependent projections"),
)


@register("metric", "independence", reference="Westfall & Young 1993; menvae.statistics.independence")
class PartitionIndependence(Metric):
    """Permutation tests of the independence of partitions, over patients.

    ``indep/<statistic>`` is the largest value of all pairs of partitions, sign(x) sqrt|x| of a bias-corrected squared
    correlation, and ``indep/<statistic>_p`` the probability of one as large if all partitions are independent. The
    statistics are ``dcor``, distance correlation; ``hsic``, normalised HSIC with Gaussian kernels of median bandwidth;
    and ``sliced_dcor``, distance correlation of the two projections that depend most on each other in training, which
    dimensions of noise do not dilute. The tests see the first visit of each patient, of at most `MOST_ROWS` patients.
    """

    direction: ClassVar[Direction | None] = None
    range = (-1.0, 1.0)
    needs = frozenset({"mean", "training"})
    min_subjects = max(MIN_ROWS, 20)
    absent = "the tests need at least 20 subjects and partitions that vary"
    when: ClassVar[When] = "final"

    def __init__(
        self,
        context: MetricContext,
        *,
        num_permutations: Annotated[int, Field(ge=MIN_ARRANGEMENTS - 1)] = NUM_PERMUTATIONS,
    ) -> None:
        """Set the number of permutations.

        Args:
            context: run context.
            num_permutations: permutations of patients; the smallest p-value is about one in as many.
        """
        super().__init__(context)
        self.num_permutations = num_permutations

    def meaning(self, key: str) -> str:
        """Name the statistic."""
        statistic = next(each for each in _STATISTICS if key.removeprefix("indep/").removesuffix("_p") == each.name)
        if key.endswith("_p"):
            return f"Probability of the largest {statistic.means} if all partitions are independent."
        return f"Largest {statistic.means} between two partitions, one visit a patient: what `{key}_p` tests."

    def names(self) -> list[str]:
        """Value and p-value of each statistic; none for a single partition."""
        if not pairs(self.context.layout):
            return []
        return [f"indep/{each.name}{suffix}" for each in _STATISTICS for suffix in ("", "_p")]

    def compute(self, record: SplitRecord) -> dict[str, float | None]:
        """Return the values and p-values of the largest pairs."""
        return {key: found.value for key, found in self.findings(record).estimates.items()}

    def findings(self, record: SplitRecord) -> Findings:
        """Return the values of the largest pairs and, as ``independence``, those of all pairs."""
        assert record.training is not None
        rows = one_visit_each(record)[0]
        judged = record.rows(spaced(rows, MOST_ROWS))
        blocks, patients, count = self._blocks(judged), judged.patient_id, self.num_permutations
        everyone = record.training
        others = np.flatnonzero(~np.isin(everyone.patient_id, record.patient_id))

        def sliced() -> IndependenceTest:
            if len(others) == 0:
                raise ValueError("no training patients but those that are judged")
            training = everyone.rows(spaced(others, MOST_TRAINING_ROWS))
            directions = most_dependent_directions(self._blocks(training), training.patient_id)
            return sliced_dcor_test(blocks, directions, patients, num_permutations=count)

        tests: Sequence[Callable[[], IndependenceTest]] = (
            lambda: dcor_test(blocks, patients, num_permutations=count),
            lambda: hsic_test(blocks, patients, num_permutations=count),
            sliced,
        )
        estimates: dict[str, Estimate] = {}
        table: list[dict[str, Any]] = []
        num_patients = len(set(patients))
        for statistic, test in zip(_STATISTICS, tests, strict=True):
            key = f"indep/{statistic.name}"
            try:
                found = test()
            except ValueError as error:  # a partition that does not vary, or too few patients
                reason = self._reason(error)
                estimates |= dict.fromkeys((key, f"{key}_p"), Estimate(None, None, None, num_patients, reason))
                continue
            largest = float(signed_root(torch.tensor(found.largest, dtype=torch.float64)))
            estimates[key] = Estimate(largest, None, None, num_patients, _NO_INTERVAL)
            estimates[f"{key}_p"] = Estimate(found.p_largest, None, None, num_patients, _NO_INTERVAL)
            table += self._rows(statistic.name, found)
        return Findings(estimates, {TABLE: table})

    def _reason(self, error: ValueError) -> str:
        """Return what a test says, with the names of partitions."""
        names = list(self.context.layout)
        return re.sub(r"\bblock (\d+)", lambda found: f"partition '{names[int(found[1])]}'", str(error))

    def _blocks(self, record: SplitRecord) -> list[Tensor]:
        return [torch.from_numpy(block) for block in record.codes(self.context.layout).values()]

    def _rows(self, statistic: str, found: IndependenceTest) -> Iterator[dict[str, Any]]:
        values = signed_root(torch.from_numpy(found.values)).tolist()
        chance = float(signed_root(torch.tensor(found.chance, dtype=torch.float64)))
        alone, together = found.p_values.tolist(), found.family_wise.tolist()
        for (first, second), value, p_value, family_wise in zip(
            pairs(self.context.layout), values, alone, together, strict=True
        ):
            pair = {"statistic": statistic, "first": first, "second": second, "value": value}
            yield {**pair, "p_value": p_value, "family_wise_p_value": family_wise, "largest_by_chance": chance}
