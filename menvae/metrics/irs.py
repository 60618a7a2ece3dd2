"""Interventional robustness of partitions."""

from __future__ import annotations

from typing import ClassVar

from menvae.metrics.groups import Groups, GroupScore
from menvae.registry import register
from menvae.statistics.disentanglement import irs, occupancies


@register("metric", "irs", reference="Suter et al. 2019")
class GroupIrs(GroupScore):
    """Interventional robustness of partitions: ``disent/irs``.

    See `menvae.statistics.disentanglement.irs.irs`.
    """

    keys: ClassVar = {
        "disent/irs": "1 if each partition depends on targets of other groups only through those of its own.",
    }

    def scores(self, codes: Groups, factors: Groups, observed: Groups) -> dict[str, float]:
        """Return the score."""
        return {"disent/irs": irs(occupancies(codes, factors, observed))}
