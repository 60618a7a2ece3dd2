"""One encoder per modality; the product of their posteriors accepts any subset of modalities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from menvae.encoders import Encoder, Features, only_available
from menvae.encoders.resnet import DEFAULTS
from menvae.latent import LatentLayout
from menvae.registry import bind_inside, register
from menvae.statistics.gaussian import product_with_prior


@register("encoder", "product_of_experts", reference="Wu & Goodman 2018")
class ProductOfExperts(Encoder):
    """Multiply the prior N(0, I) by the posteriors q(z|x_m) of the available modalities m.

    A missing modality contributes no factor, which widens the posterior. Experts learn to work alone only if training
    subjects lack modalities or ``model.modality_dropout`` is positive; otherwise only their product is trained.
    """

    def __init__(
        self,
        in_channels: int,
        size: tuple[int, int, int],
        layout: LatentLayout,
        *,
        expert: Mapping[str, Any] = DEFAULTS,
        shared_weights: bool = False,
    ) -> None:
        """Build the experts.

        Args:
            in_channels: C, number of modalities.
            size: (D, H, W) in voxels.
            layout: partitions of z.
            expert: configuration of the encoder of one modality.
            shared_weights: use one expert for all modalities, without telling it which one it sees.
        """
        super().__init__()
        self.num_modalities = in_channels
        bound = bind_inside("encoder", expert, "encoder.expert")
        self.experts = nn.ModuleList(bound(1, size, layout) for _ in range(1 if shared_weights else in_channels))
        self.hierarchical = all(expert.hierarchical for expert in self._encoders())

    def _encoders(self) -> list[Encoder]:
        """Return the expert of each modality."""
        experts = [expert for expert in self.experts if isinstance(expert, Encoder)]
        return experts * (self.num_modalities if len(experts) == 1 else 1)

    def features(self, inputs: Tensor, available: Tensor | None = None) -> Features:
        """Inputs [B, C, D, H, W] -> features of every expert, prefixed by its index, and ``available`` [B, C]."""
        if available is None:
            available = torch.ones(inputs.shape[:2], dtype=torch.bool, device=inputs.device)
        inputs = only_available(inputs, available)
        features = {"available": available}
        for index, (expert, x) in enumerate(zip(self._encoders(), inputs.unbind(1), strict=True)):
            own = expert.features(x.unsqueeze(1))
            features |= {f"{index}.{name}": tensor for name, tensor in own.items()}
        return features

    def posterior(self, features: Features, *, isolated: bool = False) -> tuple[Tensor, Tensor]:
        """Features -> mean [B, Z], logvar [B, Z] of the product."""
        means, logvars = [], []
        for index, expert in enumerate(self._encoders()):
            prefix = f"{index}."
            own = {name.removeprefix(prefix): x for name, x in features.items() if name.startswith(prefix)}
            mean, logvar = expert.posterior(own, isolated=isolated)
            means.append(mean)
            logvars.append(logvar)
        return product_with_prior(torch.stack(means, dim=1), torch.stack(logvars, dim=1), features["available"])
