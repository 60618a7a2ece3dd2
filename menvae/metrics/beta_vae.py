"""Score of beta-VAE for partitions."""

from __future__ import annotations

from typing import ClassVar

from menvae.metrics.groups import Groups, GroupScore
from menvae.registry import register
from menvae.statistics.disentanglement import beta_vae_score, occupancies


@register("metric", "beta_vae", reference="Higgins et al. 2017")
class GroupBetaVae(GroupScore):
    """Score of beta-VAE for partitions and groups of targets: ``disent/beta_vae``.

    See `menvae.statistics.disentanglement.beta_vae.beta_vae_score`.
    """

    keys: ClassVar = {
        "disent/beta_vae": "How often a linear classifier names the group of targets that two subjects share.",
    }

    def scores(self, codes: Groups, factors: Groups, observed: Groups) -> dict[str, float]:
        """Return the score."""
        return {"disent/beta_vae": beta_vae_score(occupancies(codes, factors, observed))}
