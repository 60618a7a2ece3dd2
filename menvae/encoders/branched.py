"""ResNet trunk with one branch per partition: attention, finer features, conditioning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from menvae.encoders import Encoder, Features
from menvae.encoders.trunk import GaussianHead, Pool, ResNetTrunk, Stem, pooling
from menvae.errors import UserError, about
from menvae.latent import LatentLayout
from menvae.layers import conv
from menvae.registry import Field, register

Attention = Literal["none", "channel", "spatial"]

_REDUCTION = 16
_FUSED_CHANNELS = 64


class ChannelAttention(nn.Module):
    """Scale each channel by average, Linear C -> C / 16, ReLU, Linear -> C, sigmoid (Hu et al. 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.factors = nn.Sequential(
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
            nn.Linear(channels, channels // _REDUCTION),
            nn.ReLU(),
            nn.Linear(channels // _REDUCTION, channels),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """X [B, C, D, H, W] -> the same shape."""
        factors: Tensor = self.factors(x)
        return x * factors.reshape(*factors.shape, 1, 1, 1)


class SpatialAttention(nn.Module):
    """Scale each voxel by a gate computed from the mean and maximum over channels (Woo et al. 2018, section 3.2).

    The convolution has kernel size 3 instead of the paper's 7, because the grid has only 2 to 10 voxels per side.
    """

    def __init__(self, *, spectral: bool) -> None:
        super().__init__()
        self.convolution = conv(2, 1, 3, spectral=spectral)

    def forward(self, x: Tensor) -> Tensor:
        """X [B, C, D, H, W] -> the same shape."""
        summary = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)
        return x * torch.sigmoid(self.convolution(summary))


class Branch(nn.Module):
    """Posterior of one partition from the shared features and the means of earlier partitions."""

    def __init__(
        self,
        trunk: ResNetTrunk,
        num_latents: int,
        num_conditions: int,
        *,
        attention: Attention,
        fused: bool,
        pool: Pool,
        initial_logvar: float | None,
        spectral: bool,
    ) -> None:
        super().__init__()
        self.attention: nn.Module = nn.Identity()
        if attention == "channel":
            self.attention = ChannelAttention(trunk.num_channels["layer4"])
        elif attention == "spatial":
            self.attention = SpatialAttention(spectral=spectral)
        self.pool = pooling(pool)
        self.fusion: nn.Module | None = None
        if fused:
            # The reports do not mention the ReLU, but without it the convolution and the linear head would merge.
            reduce = conv(trunk.num_channels["layer3"], _FUSED_CHANNELS, 1, spectral=spectral)
            self.fusion = nn.Sequential(reduce, nn.ReLU(), pooling("average"))
        self.head = GaussianHead(
            trunk.num_pooled(pool) + (_FUSED_CHANNELS if fused else 0) + num_conditions,
            num_latents,
            num_block_means=trunk.num_block_means,
            initial_logvar=initial_logvar,
        )

    def forward(self, features: Features, conditions: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Features, earlier means [B, P'] -> mean [B, P], logvar [B, P]."""
        seen = [self.pool(self.attention(features["layer4"]))]
        if self.fusion is not None:
            seen.append(self.fusion(features["layer3"]))
        mean, logvar = self.head(torch.cat([*seen, *conditions], dim=1), features.get("block_means"))
        return mean, logvar


@register("encoder", "branched", reference="Hu et al. 2018; Woo et al. 2018; design report, recommendations")
class BranchedEncoder(Encoder):
    """Trunk of ``resnet`` with one branch per partition: attention, finer features, conditioning.

    A partition may be conditioned on the means of earlier partitions. Means instead of samples keep q(z|x) a diagonal
    Gaussian, whose KL has a closed form, and its mean free of noise.
    """

    def __init__(
        self,
        in_channels: int,
        size: tuple[int, int, int],
        layout: LatentLayout,
        *,
        attention: Attention = "none",
        multi_scale: Sequence[str] = (),
        hierarchical: bool = False,
        order: Sequence[str] | None = None,
        base_filters: Annotated[int, Field(ge=8, multiple_of=8)] = 16,
        pool: Pool = "flatten",
        residual_gain: Annotated[float, Field(gt=0.0)] = 0.1,
        block_means: Annotated[int, Field(ge=1)] | None = 8,
        initial_logvar: float | None = -3.0,
        spectral_norm: bool = False,
        stem: Stem = "shared",
    ) -> None:
        """Build the encoder.

        Args:
            in_channels: C, number of modalities.
            size: (D, H, W) in voxels, multiples of 16.
            layout: partitions of z.
            attention: attention of each branch over the channels or voxels of the coarsest grid, before pooling.
            multi_scale: partitions that also see the features of layer 3 (8 input voxels per side), through a 1x1x1
                convolution to 64 channels, ReLU and average.
            hierarchical: condition each partition on the means of earlier ones.
            order: all partitions, in the order of conditioning; None: the order of the layout, which z always keeps.
            base_filters: b, channels of the stem.
            pool: pooling of the coarsest grid, ``flatten`` or ``average``.
            residual_gain: initial weight of the last GroupNorm of each block.
            block_means: side of the grid of block means that a linear layer adds to the posterior mean; None: disabled.
            initial_logvar: log variance of q(z|x) before training; None: default initialisation.
            spectral_norm: apply spectral normalisation to every convolution.
            stem: ``shared`` or ``per_modality``.

        Raises:
            UserError: a side of ``size`` is not a multiple of 16, a partition does not exist, or ``order`` does not
                contain each partition exactly once or is given without ``hierarchical``.
        """
        super().__init__()
        self.layout, self.hierarchical = layout, hierarchical
        self.order = _order(layout, hierarchical, order)
        with about("encoder.multi_scale"):
            layout.chosen(multi_scale, at_least=0)
        self.trunk = ResNetTrunk(
            in_channels,
            size,
            base_filters=base_filters,
            residual_gain=residual_gain,
            block_means=block_means,
            spectral_norm=spectral_norm,
            stem=stem,
            owner="encoder=branched",
        )
        branches: dict[str, nn.Module] = {}
        num_earlier = 0
        for name in self.order:
            branches[name] = Branch(
                self.trunk,
                layout.sizes[name],
                num_earlier if hierarchical else 0,
                attention=attention,
                fused=name in multi_scale,
                pool=pool,
                initial_logvar=initial_logvar,
                spectral=spectral_norm,
            )
            num_earlier += layout.sizes[name]
        self.branches = nn.ModuleDict(branches)

    def features(self, inputs: Tensor, available: Tensor | None = None) -> Features:
        """Inputs [B, C, D, H, W] -> the features of the trunk."""
        features: Features = self.trunk(inputs, available)
        return features

    def posterior(self, features: Features, *, isolated: bool = False) -> tuple[Tensor, Tensor]:
        """Features -> mean [B, Z], logvar [B, Z], one branch after another."""
        means: dict[str, Tensor] = {}
        logvars: dict[str, Tensor] = {}
        for name in self.order:
            earlier = list(means.values()) if self.hierarchical else []
            conditions = [mean.detach() for mean in earlier] if isolated else earlier
            means[name], logvars[name] = self.branches[name](features, conditions)
        return _joined(self.layout, means), _joined(self.layout, logvars)


def _joined(layout: LatentLayout, by_partition: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([by_partition[name] for name in layout], dim=1)


def _order(layout: LatentLayout, hierarchical: bool, order: Sequence[str] | None) -> list[str]:
    if order is None:
        return list(layout)
    if not hierarchical:
        raise UserError(f"encoder.order: {list(order)} has no effect without encoder.hierarchical=true")
    with about("encoder.order"):
        for name in order:
            layout.bounds(name)
        if sorted(order) != sorted(layout):
            raise UserError(f"{list(order)} is not allowed; it must contain each of {list(layout)} exactly once")
    return list(order)
