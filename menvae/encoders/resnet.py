"""ResNet encoder of Run 6: a stride-2 stem and four layers of two post-activation basic blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from torch import Tensor

from menvae.encoders import Encoder, Features
from menvae.encoders.trunk import GaussianHead, Pool, ResNetTrunk, Stem, pooling
from menvae.latent import LatentLayout
from menvae.registry import Field, register

DEFAULTS: Mapping[str, Any] = {
    "name": "resnet",
    "base_filters": 16,
    "pool": "flatten",
    "residual_gain": 0.1,
    "block_means": 8,
    "initial_logvar": -3.0,
    "spectral_norm": False,
    "stem": "shared",
}
"""Content of ``conf/encoder/resnet.yaml``, the default of encoders that contain another encoder."""


@register("encoder", "resnet", reference="He et al. 2016; SemiVAE Run 6")
class ResNetEncoder(Encoder):
    """Stem C -> b at stride 2, layers b, 2b, 4b, 8b (strides 1, 2, 2, 2), pooling, linear mean and logvar.

    A linear layer may add block means of the input to the posterior mean, bypassing all other layers.
    """

    def __init__(
        self,
        in_channels: int,
        size: tuple[int, int, int],
        layout: LatentLayout,
        *,
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
            base_filters: b, channels of the stem.
            pool: ``flatten`` the coarsest grid, which keeps positions, or take its global ``average``.
            residual_gain: initial weight of the last GroupNorm of each block. Below 1, a deep encoder starts like a
                shallow one, whose features differ between subjects (Goyal et al. 2017 start at 0).
            block_means: side of the grid of block means that a linear layer adds to the posterior mean, so that the
                principal components of the images reach z within a few hundred steps; None: disabled.
            initial_logvar: log variance of q(z|x) before training, equal for all subjects; None: default
                initialisation, about 0, which hides the mean in noise.
            spectral_norm: apply spectral normalisation to every convolution, but not to the linear heads.
            stem: ``shared`` treats a missing modality as an image of 0; ``per_modality`` drops it and rescales the
                others.

        Raises:
            UserError: a side of ``size`` is not a multiple of 16.
        """
        super().__init__()
        self.trunk = ResNetTrunk(
            in_channels,
            size,
            base_filters=base_filters,
            residual_gain=residual_gain,
            block_means=block_means,
            spectral_norm=spectral_norm,
            stem=stem,
            owner="encoder=resnet",
        )
        self.pool = pooling(pool)
        self.head = GaussianHead(
            self.trunk.num_pooled(pool),
            layout.z_dim,
            num_block_means=self.trunk.num_block_means,
            initial_logvar=initial_logvar,
        )

    def features(self, inputs: Tensor, available: Tensor | None = None) -> Features:
        """Inputs [B, C, D, H, W] -> features of the trunk."""
        features: Features = self.trunk(inputs, available)
        return features

    def posterior(self, features: Features, *, isolated: bool = False) -> tuple[Tensor, Tensor]:
        """Features -> mean [B, Z], logvar [B, Z]; each latent reads its own row of the linear layers."""
        mean, logvar = self.head(self.pool(features["layer4"]), features.get("block_means"))
        return mean, logvar
