"""Modularity, explicitness and compactness of partitions."""

from __future__ import annotations

from typing import ClassVar

from menvae.metrics.groups import Groups, GroupScore
from menvae.registry import register
from menvae.statistics.disentanglement import infomec, readings


@register("metric", "infomec", reference="Hsu et al. 2023")
class GroupInfoMec(GroupScore):
    """InfoMEC of partitions and groups of targets: ``disent/infomec_(modularity|explicitness|compactness)``.

    See `menvae.statistics.disentanglement.infomec.infomec`.
    """

    keys: ClassVar = {
        "disent/infomec_modularity": "1 if each partition has information about one group of targets only.",
        "disent/infomec_explicitness": "Share of the information about the targets that a linear probe reads from z.",
        "disent/infomec_compactness": "1 if one partition has all information about each group of targets.",
    }

    def scores(self, codes: Groups, factors: Groups, observed: Groups) -> dict[str, float]:
        """Return the scores."""
        scores = infomec(readings(codes, factors, observed))
        return dict(zip(self.keys, scores, strict=True))
