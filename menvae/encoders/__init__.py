"""Encoders: inputs [B, C, D, H, W] -> (mean, logvar), each [B, Z], in two steps of which a model may keep the first.

An encoder is constructed with (in_channels, size, layout) by code, and its tunables by configuration.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

Features = Mapping[str, Tensor]
"""What all partitions of a posterior are made from: {name: [B, ...]}; the names are the encoder's own."""


class Encoder(nn.Module):
    """What every encoder offers to models.

    Attributes:
        hierarchical: whether the posterior of a partition is made from those of others too.
    """

    hierarchical: bool = False

    def features(self, inputs: Tensor, available: Tensor | None = None) -> Features:
        """Return what the partitions share: all of the work, and most of the parameters.

        Args:
            inputs: [B, C, D, H, W].
            available: which modalities count, bool [B, C]; None: all. What the inputs hold for the others must not
                matter.
        """
        raise NotImplementedError

    def posterior(self, features: Features, *, isolated: bool = False) -> tuple[Tensor, Tensor]:
        """Return mean [B, Z] and logvar [B, Z], not yet clamped, in the order of the layout.

        Args:
            features: of `features`; a model may hand them over a second time, detached.
            isolated: no gradient runs from one partition into the branch of another; values are the same.
        """
        raise NotImplementedError

    def forward(self, inputs: Tensor, available: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Inputs [B, C, D, H, W] -> mean [B, Z], logvar [B, Z]."""
        return self.posterior(self.features(inputs, available))


def only_available(inputs: Tensor, available: Tensor | None) -> Tensor:
    """Inputs [B, C, ...], bool [B, C] or None for all -> the same with 0 where a modality is missing."""
    if available is None:
        return inputs
    return inputs.masked_fill(~available.reshape(*available.shape, *(1,) * (inputs.ndim - 2)), 0.0)


def detached(features: Features) -> Features:
    """Return the same features, out of which no gradient runs."""
    return {name: tensor.detach() for name, tensor in features.items()}
