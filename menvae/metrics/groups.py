"""Base of the metrics that compare partitions of z with groups of targets."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from menvae.metrics import Direction, Floats, Interval, Metric, SplitRecord, When

FEWEST_OBSERVED = 10
"""Targets observed in fewer subjects are ignored."""

Groups = list[Floats]


class GroupScore(Metric):
    """Scores of all partitions and all groups of targets, from 0 to 1.

    The factors are the observed targets, one group per supervised partition; targets of different groups may depend on
    each other (see `menvae.statistics.disentanglement`). Which partition is supervised by which group does not matter.

    Attributes:
        keys: key -> what it measures, in one sentence.
    """

    direction: ClassVar[Direction | None] = "higher"
    range = (0.0, 1.0)
    needs = frozenset({"mean", "targets", "observed"})
    min_subjects = 20
    absent = f"it needs 20 subjects, and two groups of targets that vary, each observed in {FEWEST_OBSERVED} subjects"
    when: ClassVar[When] = "final"
    interval: ClassVar[Interval | None] = None
    keys: ClassVar[Mapping[str, str]]

    def meaning(self, key: str) -> str:
        """Return what the key measures."""
        return self.keys[key]

    def names(self) -> list[str]:
        """Return all keys, or none with fewer than two groups of targets."""
        groups = [name for name in self.context.layout if self.context.supervision.get(name)]
        return list(self.keys) if len(groups) > 1 else []

    @abstractmethod
    def scores(self, codes: Groups, factors: Groups, observed: Groups) -> dict[str, float]:
        """Return the value of each key.

        Args:
            codes: posterior means of each partition [N, P].
            factors: targets of each group [N, F].
            observed: 1 where a target was observed [N, F].
        """

    def compute(self, record: SplitRecord) -> dict[str, float | None]:
        """Return the scores; None with fewer than two groups of usable targets."""
        layout = self.context.layout
        targets, observed = record.by_partition("targets"), record.by_partition("observed")
        factors, seen = [], []
        for name in layout:
            if name in targets and self.context.supervision.get(name):
                usable = usable_targets(targets[name], observed[name])
                if usable.any():
                    factors.append(targets[name][:, usable])
                    seen.append(observed[name][:, usable])
        if len(factors) < 2:
            return dict.fromkeys(self.names())
        return dict(self.scores(list(record.codes(layout).values()), factors, seen))


def usable_targets(targets: Floats, observed: Floats) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Return which targets were observed often enough, and vary [F]."""
    columns = [values[rows > 0] for values, rows in zip(targets.T, observed.T, strict=True)]
    return np.array([len(values) >= FEWEST_OBSERVED and float(np.ptp(values)) > 1e-9 for values in columns])
