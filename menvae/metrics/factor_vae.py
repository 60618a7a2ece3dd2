"""Score of FactorVAE for partitions."""

from __future__ import annotations

from typing import ClassVar

from menvae.metrics.groups import Groups, GroupScore
from menvae.registry import register
from menvae.statistics.disentanglement import factor_vae_score, occupancies


@register("metric", "factor_vae", reference="Kim & Mnih 2018")
class GroupFactorVae(GroupScore):
    """Score of FactorVAE for partitions and groups of targets: ``disent/factor_vae``.

    See `menvae.statistics.disentanglement.factor_vae.factor_vae_score`.
    """

    keys: ClassVar = {
        "disent/factor_vae": "How often the partition that varies least names the group of targets that is fixed.",
    }

    def scores(self, codes: Groups, factors: Groups, observed: Groups) -> dict[str, float]:
        """Return the score."""
        return {"disent/factor_vae": factor_vae_score(occupancies(codes, factors, observed))}
