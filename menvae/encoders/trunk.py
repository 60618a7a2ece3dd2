"""Building blocks of encoders: the convolutional trunk of Run 6 and the linear heads of a Gaussian."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool3d

from menvae.encoders import Features, only_available
from menvae.layers import NUM_GROUPS, Recomputable, coarse_grid, conv, norm

Stem = Literal["shared", "per_modality"]
Pool = Literal["flatten", "average"]

_NUM_BLOCKS_TO_LAYER_3 = 6


class BasicBlock(Recomputable):
    """conv3-GN-ReLU-conv3-GN-add-ReLU (He et al. 2016); 1x1x1 convolution and GN on the skip if the shape changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, *, gain: float, spectral: bool) -> None:
        super().__init__()
        last_norm = norm(out_channels)
        nn.init.constant_(last_norm.weight, gain)
        self.body = nn.Sequential(
            conv(in_channels, out_channels, 3, stride=stride, bias=False, spectral=spectral),
            norm(out_channels),
            nn.ReLU(inplace=True),
            conv(out_channels, out_channels, 3, bias=False, spectral=spectral),
            last_norm,
        )
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.skip = nn.Sequential(
                conv(in_channels, out_channels, 1, stride=stride, bias=False, spectral=spectral), norm(out_channels)
            )
        self.activation = nn.ReLU(inplace=True)

    def compute(self, x: Tensor) -> Tensor:
        """X [B, C, D, H, W] -> [B, C', D / stride, H / stride, W / stride]."""
        out: Tensor = self.activation(self.body(x) + self.skip(x))
        return out


class SharedStem(nn.Sequential):
    """One stride-2 convolution over all modalities, GroupNorm, ReLU; a missing modality is 0."""

    def __init__(self, in_channels: int, out_channels: int, *, spectral: bool) -> None:
        super().__init__(
            conv(in_channels, out_channels, 3, stride=2, bias=False, spectral=spectral),
            norm(out_channels),
            nn.ReLU(inplace=True),
        )
        self.out_channels = out_channels


class PerModalityStem(nn.Module):
    """One stem per modality, concatenated; missing modalities are zeroed and the others rescaled.

    The channels per stem keep the total near ``out_channels``, rounded up to a multiple of the groups of GroupNorm: 8
    for the 32 channels and four modalities of Run 6, whose layers then stay the same.
    """

    def __init__(self, in_channels: int, out_channels: int, *, spectral: bool) -> None:
        super().__init__()
        width = -(-out_channels // (in_channels * NUM_GROUPS)) * NUM_GROUPS
        self.stems = nn.ModuleList(SharedStem(1, width, spectral=spectral) for _ in range(in_channels))
        self.out_channels = in_channels * width

    def forward(self, inputs: Tensor, available: Tensor | None) -> Tensor:
        """Inputs [B, C, D, H, W], bool [B, C] or None -> [B, C', D / 2, H / 2, W / 2], scaled by C / num_available."""
        outputs = [stem(x.unsqueeze(1)) for stem, x in zip(self.stems, inputs.unbind(1), strict=True)]
        if available is not None:
            share = available / available.float().mean(dim=1, keepdim=True).clamp(min=1.0 / len(self.stems))
            factors = share.to(outputs[0].dtype).unbind(1)
            outputs = [out * factor.reshape(-1, 1, 1, 1, 1) for out, factor in zip(outputs, factors, strict=True)]
        return torch.cat(outputs, dim=1)


class ResNetTrunk(nn.Module):
    """Stem C -> b at stride 2, then layers b, 2b, 4b, 8b (strides 1, 2, 2, 2) of two basic blocks each.

    Attributes:
        num_channels: channels of each feature: 4b for ``layer3``, 8b for ``layer4``.
        grid: (D, H, W) of ``layer4``.
        num_block_means: entries of the feature ``block_means``; 0 if disabled.
    """

    def __init__(
        self,
        in_channels: int,
        size: tuple[int, int, int],
        *,
        base_filters: int,
        residual_gain: float,
        block_means: int | None,
        spectral_norm: bool,
        stem: Stem,
        owner: str,
    ) -> None:
        """Build the trunk.

        Args:
            in_channels: C, number of modalities.
            size: (D, H, W) in voxels, multiples of 16.
            base_filters: b.
            residual_gain: initial weight of the last GroupNorm of each block.
            block_means: side of the grid of block means of the input, returned as a feature; None: disabled.
            spectral_norm: apply spectral normalisation to every convolution.
            stem: one stem for all modalities (``shared``), or one each (``per_modality``).
            owner: part to name in an error about ``size``.

        Raises:
            UserError: a side of ``size`` is not a multiple of 16.
        """
        super().__init__()
        self.grid = coarse_grid(size, owner)
        self.block_means = block_means
        self.num_block_means = 0 if block_means is None else in_channels * block_means**3
        first = SharedStem if stem == "shared" else PerModalityStem
        self.stem = first(in_channels, base_filters, spectral=spectral_norm)
        widths = [base_filters * factor for factor in (1, 2, 4, 8)]
        self.num_channels = {"layer3": widths[2], "layer4": widths[3]}
        blocks: list[nn.Module] = []
        width_in = self.stem.out_channels
        for width, stride in zip(widths, (1, 2, 2, 2), strict=True):
            for block_stride in (stride, 1):
                block = BasicBlock(width_in, width, block_stride, gain=residual_gain, spectral=spectral_norm)
                blocks.append(block)
                width_in = width
        self.layers = nn.Sequential(*blocks)

    def forward(self, inputs: Tensor, available: Tensor | None = None) -> Features:
        """Inputs [B, C, D, H, W] -> ``layer3``, ``layer4`` [B, C', D', H', W'], optional ``block_means`` [B, C s^3]."""
        inputs = only_available(inputs, available)
        if isinstance(self.stem, PerModalityStem):
            layer3 = self.layers[:_NUM_BLOCKS_TO_LAYER_3](self.stem(inputs, available))
        else:
            layer3 = self.layers[:_NUM_BLOCKS_TO_LAYER_3](self.stem(inputs))
        features = {"layer3": layer3, "layer4": self.layers[_NUM_BLOCKS_TO_LAYER_3:](layer3)}
        if self.block_means is not None:
            features["block_means"] = adaptive_avg_pool3d(inputs, self.block_means).flatten(1)
        return features

    def num_pooled(self, pool: Pool) -> int:
        """Return the number of features that `pooling` makes of ``layer4``."""
        num_voxels = self.grid[0] * self.grid[1] * self.grid[2]
        return self.num_channels["layer4"] * (1 if pool == "average" else num_voxels)


def pooling(pool: Pool) -> nn.Module:
    """Return a module [B, C, D, H, W] -> [B, F] that flattens the grid, which keeps positions, or averages it."""
    return nn.Sequential(nn.AdaptiveAvgPool3d(1) if pool == "average" else nn.Identity(), nn.Flatten())


class GaussianHead(nn.Module):
    """Linear mean and log variance; a further linear layer may add block means of the input to the mean."""

    def __init__(
        self, num_features: int, num_latents: int, *, num_block_means: int = 0, initial_logvar: float | None
    ) -> None:
        """Build the head.

        Args:
            num_features: F.
            num_latents: P.
            num_block_means: C s^3, entries of the block means; 0: disabled.
            initial_logvar: log variance before training, equal for all subjects; None: default initialisation.
        """
        super().__init__()
        self.mean = nn.Linear(num_features, num_latents)
        self.logvar = nn.Linear(num_features, num_latents)
        self.block_means = nn.Linear(num_block_means, num_latents, bias=False) if num_block_means else None
        if initial_logvar is not None:
            nn.init.zeros_(self.logvar.weight)
            nn.init.constant_(self.logvar.bias, initial_logvar)

    def forward(self, features: Tensor, block_means: Tensor | None) -> tuple[Tensor, Tensor]:
        """Features [B, F], block means [B, C s^3] -> mean [B, P], logvar [B, P]."""
        mean = self.mean(features)
        if self.block_means is not None:
            mean = mean + self.block_means(block_means)
        return mean, self.logvar(features)
