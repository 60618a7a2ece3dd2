"""Coefficient of determination of predicted targets."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from menvae.metrics import Direction, Floats, Metric, SplitRecord
from menvae.registry import register

FEWEST_SUBJECTS = 3
"""With two observed subjects, R2 is not a figure: SS_tot is half the squared distance of a single pair of targets, so
two similar subjects make any error look enormous."""
FEWEST_IN_A_MEAN = 10
"""A feature that fewer subjects have (in splits below 20, fewer than half of them) does not count in the mean of its
partition: its R2 is mostly noise, and would weigh as much as that of a feature that everyone has."""


@register("metric", "r2")
class TargetR2(Metric):
    """R2 of each predicted target and each partition: ``sem/<target>_r2``, ``sem/<partition>_r2``.

    Subjects without an observed target are excluded. The R2 of a partition is the unweighted mean over its targets
    that `FEWEST_IN_A_MEAN` subjects have; it is None if these are fewer than half of its targets.
    """

    direction: ClassVar[Direction | None] = "higher"
    range = (-math.inf, 1.0)
    needs = frozenset({"targets", "observed", "predictions"})
    absent = (
        f"no head predicts it, or fewer than {FEWEST_SUBJECTS} subjects (for most targets of a partition, "
        f"{FEWEST_IN_A_MEAN}) have targets that vary"
    )

    def meaning(self, key: str) -> str:
        """Name the partition or target."""
        name = key.removeprefix("sem/").removesuffix("_r2")
        of_partition = f"Mean R² of the {name} targets" if name in self.context.supervision else f"R² of {name}"
        return f"{of_partition} on the validation split."

    def names(self) -> list[str]:
        """One key per target and one per supervised partition; they are the same if its only target has its name."""
        supervised = {partition: targets for partition, targets in self.context.supervision.items() if targets}
        targets = [name for names in supervised.values() for name in names]
        partitions = [name for name, of_partition in supervised.items() if list(of_partition) != [name]]
        return [f"sem/{name}_r2" for name in (*targets, *partitions)]

    def compute(self, record: SplitRecord) -> dict[str, float | None]:
        """Return the values of the partitions with predictions."""
        targets, observed, predictions = map(record.by_partition, ("targets", "observed", "predictions"))
        metrics: dict[str, float | None] = {}
        for partition, names in self.context.supervision.items():
            if partition not in predictions or not names:
                continue
            values = []
            enough = max(FEWEST_SUBJECTS, min(FEWEST_IN_A_MEAN, len(record.subject_id) // 2))
            for column, name in enumerate(names):
                rows = observed[partition][:, column] > 0
                value = r2(targets[partition][rows, column], predictions[partition][rows, column])
                metrics[f"sem/{name}_r2"] = value
                if value is not None and np.count_nonzero(rows) >= enough:
                    values.append(value)
            if [partition] != list(names):
                metrics[f"sem/{partition}_r2"] = float(np.mean(values)) if 2 * len(values) >= len(names) else None
        return metrics


def r2(true: Floats, predicted: Floats) -> float | None:
    """Coefficient of determination 1 - SS_res / SS_tot over a whole split.

    Args:
        true: ground truth [N], without missing values.
        predicted: [N].

    Returns:
        R2 (at most 1, negative if worse than the mean), or None for fewer than `FEWEST_SUBJECTS` values or a constant
        ``true``.

    >>> r2(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 2.0, 3.0, 3.0]))
    0.8
    """
    if len(true) < FEWEST_SUBJECTS:
        return None
    total = float(np.square(true - true.mean()).sum())
    if total <= 1e-12 * max(1.0, float(np.square(true).sum())):
        return None
    return 1.0 - float(np.square(true - predicted).sum()) / total
