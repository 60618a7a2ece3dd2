"""Disentanglement, completeness and informativeness of partitions."""

from __future__ import annotations

from typing import ClassVar

from menvae.metrics.groups import Groups, GroupScore
from menvae.registry import register
from menvae.statistics.disentanglement import dci, readings


@register("metric", "dci", reference="Eastwood & Williams 2018")
class GroupDci(GroupScore):
    """DCI of partitions and groups of targets: ``disent/dci_(disentanglement|completeness|informativeness)``.

    See `menvae.statistics.disentanglement.dci.dci`.
    """

    keys: ClassVar = {
        "disent/dci_disentanglement": "1 if each partition is about one group of targets only.",
        "disent/dci_completeness": "1 if each group of targets is in one partition only.",
        "disent/dci_informativeness": "Mean R² of the targets read linearly from all of z.",
    }

    def scores(self, codes: Groups, factors: Groups, observed: Groups) -> dict[str, float]:
        """Return the scores."""
        scores = dci(readings(codes, factors, observed))
        return dict(zip(self.keys, scores, strict=True))
