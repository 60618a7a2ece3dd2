"""Separated attribute predictability of partitions."""

from __future__ import annotations

from typing import ClassVar

from menvae.metrics.groups import Groups, GroupScore
from menvae.registry import register
from menvae.statistics.disentanglement import readings, sap


@register("metric", "sap", reference="Kumar et al. 2018")
class GroupSap(GroupScore):
    """Separated attribute predictability of partitions and groups of targets: ``disent/sap``.

    See `menvae.statistics.disentanglement.sap.sap`.
    """

    keys: ClassVar = {
        "disent/sap": "Gap in R² of a group of targets between the two best partitions; 1 is ideal.",
    }

    def scores(self, codes: Groups, factors: Groups, observed: Groups) -> dict[str, float]:
        """Return the score."""
        return {"disent/sap": sap(readings(codes, factors, observed))}
