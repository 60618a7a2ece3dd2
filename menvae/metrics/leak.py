"""What each partition says about the targets of the others."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, ClassVar

from menvae.metrics import Direction, Findings, Metric, MetricContext, SplitRecord, When
from menvae.registry import Field, register
from menvae.statistics.bootstrap import MIN_PATIENTS
from menvae.statistics.estimate import Estimate
from menvae.statistics.leaks import NUM_PERMUTATIONS, Codes, Leaks, leak_table

TABLE = "leaks"
"""Name of the table of all leaks."""
_NO_INTERVAL = "no interval: the largest of all leaks has one"


@register("metric", "leak", reference="menvae.statistics.leaks")
class PartitionLeak(Metric):
    """R2 with which a partition predicts a target of another one: ``leak/<target>_from_<partition>``, ``leak/max``.

    The larger of two probes, ridge and quadratic, cross-validated over patients, less what the targets of the partition
    itself say. ``leak/max`` is the largest value above its permutation null; 0 if there is none.
    """

    direction: ClassVar[Direction | None] = "lower"
    range = (-1.0, 1.0)
    needs = frozenset({"mean", "targets", "observed", "training"})
    min_subjects = MIN_PATIENTS
    absent = f"fewer than {MIN_PATIENTS} patients have the target, or it does not vary"
    when: ClassVar[When] = "final"

    def __init__(
        self, context: MetricContext, *, num_permutations: Annotated[int, Field(ge=39)] = NUM_PERMUTATIONS
    ) -> None:
        """Set the number of permutations.

        Args:
            context: run context.
            num_permutations: permutations of patients behind the null; 39 are the fewest for a 97.5 % quantile.
        """
        super().__init__(context)
        self.num_permutations = num_permutations

    def meaning(self, key: str) -> str:
        """Name target and partition."""
        if key == "leak/max":
            return "Largest R² of a target read from a foreign partition, beyond what that partition's targets say."
        target, partition = next(pair for pair in self._pairs() if key == "leak/{}_from_{}".format(*pair))
        return f"R² of {target} read from {partition}, beyond what the targets of {partition} say."

    def names(self) -> list[str]:
        """One key per target and foreign partition, and the maximum; none without supervision or other partitions."""
        found = ["leak/{}_from_{}".format(*pair) for pair in self._pairs()]
        return [*found, "leak/max"] if found else []

    def compute(self, record: SplitRecord) -> dict[str, float | None]:
        """Return the values; None where fewer than ten patients have the target."""
        return {key: found.value for key, found in self.findings(record).estimates.items()}

    def findings(self, record: SplitRecord) -> Findings:
        """Return the values, of which only the maximum has an interval, and the whole table as ``leaks``."""
        leaks = self.leaks(record)
        found = {key: Estimate(None, None, None, 0, self.absent) for key in self.names()}
        for leak in leaks.table:
            key = f"leak/{leak.target}_from_{leak.source}"
            if leak.conditional is not None and leak.conditional >= (found[key].value or -1.0):
                found[key] = Estimate(leak.conditional, None, None, leak.n, _NO_INTERVAL)
        table = [{**asdict(leak), "significant": leak.significant} for leak in leaks.table]
        return Findings({**found, "leak/max": leaks.leak_max}, {TABLE: table})

    def leaks(self, record: SplitRecord) -> Leaks:
        """Return the leak matrix of a split as a table, with both probes and the interval of its maximum."""
        assert record.training is not None
        train, judged = (self._codes(each) for each in (record.training, record))
        return leak_table(train, judged, self.context.supervision, num_permutations=self.num_permutations)

    def _pairs(self) -> list[tuple[str, str]]:
        return [
            (target, partition)
            for own, targets in self.context.supervision.items()
            for target in targets
            for partition in self.context.layout
            if partition != own
        ]

    def _codes(self, record: SplitRecord) -> Codes:
        context = self.context
        return Codes(record.codes(context.layout), record.by_target(context.supervision), record.patient_id)
