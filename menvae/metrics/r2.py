"""Coefficient of determination of predicted targets."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from menvae.metrics import Direction, Floats, Means, SplitRecord
from menvae.metrics.means import MetricOfMeans, mean_of_some
from menvae.registry import register

FEWEST_SUBJECTS = 3
"""With two observed subjects, R2 is not a figure: SS_tot is half the squared distance of a single pair of targets, so
two similar subjects make any error look enormous."""
FEWEST_IN_A_MEAN = 10
"""A feature that fewer subjects have (in splits below 20, fewer than half of them) does not count in the mean of its
partition: its R2 is mostly noise, and would weigh as much as that of a feature that everyone has."""
_CONSTANT = 1e-12
"""Variance of z-scores below which a target does not vary."""

Rows = NDArray[np.bool_]


@register("metric", "r2")
class TargetR2(MetricOfMeans):
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
        return f"{of_partition}."

    def names(self) -> list[str]:
        """One key per target and one per supervised partition; they are the same if its only target has its name."""
        supervised = {partition: targets for partition, targets in self.context.supervision.items() if targets}
        targets = [name for names in supervised.values() for name in names]
        partitions = [name for name, of_partition in supervised.items() if list(of_partition) != [name]]
        return [f"sem/{name}_r2" for name in (*targets, *partitions)]

    def reason(self, key: str, record: SplitRecord) -> str:
        """Count the subjects that have a target, or the targets that enough subjects have."""
        name = key.removeprefix("sem/").removesuffix("_r2")
        counts = {feature: int(np.sum(seen)) for _, feature, seen, *_ in self._features(record)}
        if name in counts:
            return f"{counts[name]} of {len(record.subject_id)} subjects have it; R² needs {FEWEST_SUBJECTS} that vary"
        own = [counts[feature] for feature in self.context.supervision.get(name, ()) if feature in counts]
        if not own:
            return self.absent
        enough = fewest_in_a_mean(len(record.subject_id))
        usable = sum(count >= enough for count in own)
        return f"{usable} of its {len(own)} features vary and are observed in {enough} subjects; half of them must"

    def means(self, record: SplitRecord) -> Means:
        """Average products of targets and errors over the subjects that have a target."""
        features, enough = list(self._features(record)), fewest_in_a_mean(len(record.subject_id))
        columns: dict[str, Floats] = {}
        for _, name, seen, true, error in features:
            centred = np.where(seen, true - true[seen].mean() if seen.any() else 0.0, 0.0)
            columns[name] = np.stack([seen, centred, centred**2, np.where(seen, error**2, 0.0)], axis=1)
        seen_of = {name: seen for _, name, seen, *_ in features}

        def values(means: Floats) -> dict[str, Floats]:
            each = {name: _r2_of(means[:, 4 * place : 4 * place + 4]) for place, name in enumerate(columns)}
            undefined = np.full(len(means), np.nan)
            each = {name: each[name] if seen_of[name].sum() >= FEWEST_SUBJECTS else undefined for name in each}
            found = {f"sem/{name}_r2": r2s for name, r2s in each.items()}
            for partition, names in self._predicted(record).items():
                counted = [each[name] for name in names if seen_of[name].sum() >= enough]
                if [partition] != names:
                    found[f"sem/{partition}_r2"] = mean_of_some([undefined, *counted], 0.5 * len(names))
            return found

        rests_on = {f"sem/{name}_r2": seen for name, seen in seen_of.items()}
        for partition, names in self._predicted(record).items():
            if [partition] != names:
                counted = [seen_of[name] for name in names if seen_of[name].sum() >= enough]
                rests_on[f"sem/{partition}_r2"] = np.any([np.zeros_like(seen_of[names[0]]), *counted], axis=0)
        return Means(
            np.concatenate([*columns.values(), np.zeros((len(record.subject_id), 0))], axis=1), values, rests_on
        )

    def _predicted(self, record: SplitRecord) -> dict[str, list[str]]:
        """Return the partitions with predictions -> their targets."""
        predictions = record.by_partition("predictions")
        return {name: list(own) for name, own in self.context.supervision.items() if own and name in predictions}

    def _features(self, record: SplitRecord) -> Iterator[tuple[str, str, Rows, Floats, Floats]]:
        """Yield partition and name of each predicted target, who has it, its values and their errors [N]."""
        targets, observed, predictions = map(record.by_partition, ("targets", "observed", "predictions"))
        for partition, names in self._predicted(record).items():
            for column, name in enumerate(names):
                true = targets[partition][:, column]
                seen = observed[partition][:, column] > 0
                yield partition, name, seen, true, true - predictions[partition][:, column]


def fewest_in_a_mean(num_subjects: int) -> int:
    """Return how many subjects of a split must have a target so that it counts in the mean of its partition."""
    return max(FEWEST_SUBJECTS, min(FEWEST_IN_A_MEAN, num_subjects // 2))


def _r2_of(means: Floats) -> Floats:
    """Means of seen, target, its square and the squared error [R, 4] -> R2 [R]; NaN for targets that do not vary."""
    count, first, second, error = means.T
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = second / count - (first / count) ** 2
        return np.where(variance > _CONSTANT, 1.0 - error / count / variance, np.nan)


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
