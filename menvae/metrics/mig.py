"""Mutual information gap of partitions."""

from __future__ import annotations

from typing import ClassVar

from menvae.metrics.groups import Groups, GroupScore
from menvae.registry import register
from menvae.statistics.disentanglement import mig, readings


@register("metric", "mig", reference="Chen et al. 2018")
class GroupMig(GroupScore):
    """Mutual information gap of partitions and groups of targets: ``disent/mig``.

    See `menvae.statistics.disentanglement.mig.mig`.
    """

    keys: ClassVar = {
        "disent/mig": "Gap in information about a group of targets between the two best partitions; 1 is ideal.",
    }

    def scores(self, codes: Groups, factors: Groups, observed: Groups) -> dict[str, float]:
        """Return the score."""
        return {"disent/mig": mig(readings(codes, factors, observed))}
