"""Encoders: inputs [B, C, D, H, W] -> (mean, logvar), each [B, Z].

The two steps, `Encoder.features` and `Encoder.posterior`, let a model evaluate the posterior twice on the same
features. Code passes (in_channels, size, layout) to the constructor; the configuration passes the tunables.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from torch import Tensor, nn

Features = Mapping[str, Tensor]
"""Features that all partitions of a posterior share: {name: [B, ...]}; each encoder chooses its own names."""


class Encoder(nn.Module):
    """Base class of encoders.

    Attributes:
        hierarchical: whether the posterior of a partition also depends on those of other partitions.
        offers: names of features that a term of the loss must train, because q(z|x) does not, each with the overrides
            that add such a term. They are outputs of the model.
        commits: names of features that `commit` reads; they need no gradient.
        compares_hemispheres: whether it takes the middle of the box along D for the midsagittal plane.
    """

    hierarchical: bool = False
    offers: Mapping[str, str] = MappingProxyType({})
    commits: tuple[str, ...] = ()
    compares_hemispheres: bool = False

    def features(self, inputs: Tensor, available: Tensor | None = None) -> Features:
        """Return the features that the partitions share; this step has most of the cost and of the parameters.

        Args:
            inputs: [B, C, D, H, W].
            available: available modalities, bool [B, C]; None: all. The result must not depend on the inputs of
                the others.
        """
        raise NotImplementedError

    def posterior(self, features: Features, *, isolated: bool = False) -> tuple[Tensor, Tensor]:
        """Return mean [B, Z] and unclamped logvar [B, Z], in the order of the layout.

        Args:
            features: output of `features`; a model may pass them a second time, detached.
            isolated: stop gradients from one partition to the branch of another; the values do not change.
        """
        raise NotImplementedError

    def commit(self, features: Features) -> None:
        """Update buffers from a training batch; called once per optimiser step, never in validation.

        Args:
            features: those of the batch that are named in ``commits``.
        """

    def forward(self, inputs: Tensor, available: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Inputs [B, C, D, H, W] -> mean [B, Z], logvar [B, Z]."""
        return self.posterior(self.features(inputs, available))


def only_available(inputs: Tensor, available: Tensor | None) -> Tensor:
    """Inputs [B, C, ...], bool [B, C] or None for all -> the inputs with missing modalities set to 0."""
    if available is None:
        return inputs
    return inputs.masked_fill(~available.reshape(*available.shape, *(1,) * (inputs.ndim - 2)), 0.0)


def detached(features: Features) -> Features:
    """Return the features, detached from the graph."""
    return {name: tensor.detach() for name, tensor in features.items()}
