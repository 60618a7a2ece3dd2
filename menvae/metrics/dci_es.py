"""Explicitness and size of the code."""

from __future__ import annotations

from typing import ClassVar

from menvae.metrics.groups import Groups, GroupScore
from menvae.registry import register
from menvae.statistics.disentanglement import dci_es, occupancies, readings


@register("metric", "dci_es", reference="Eastwood et al. 2023")
class GroupDciEs(GroupScore):
    """Explicitness and size of DCI-ES: ``disent/dci_explicitness``, ``disent/dci_size``.

    See `menvae.statistics.disentanglement.dci_es.dci_es`.
    """

    keys: ClassVar = {
        "disent/dci_explicitness": "R² of the targets read by a linear probe, divided by that of a quadratic probe.",
        "disent/dci_size": "Number of targets divided by the number of directions of z that they occupy.",
    }

    def scores(self, codes: Groups, factors: Groups, observed: Groups) -> dict[str, float]:
        """Return the scores."""
        scores = dci_es(readings(codes, factors, observed), occupancies(codes, factors, observed))
        return dict(zip(self.keys, scores, strict=True))
