"""One partition from a frozen, pretrained encoder, the others from a trained encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from menvae.configuration import path_of
from menvae.encoders.frozen_features import FrozenProjection
from menvae.encoders.pretrained import FrozenTrunk, load_trunk
from menvae.encoders.resnet import DEFAULTS
from menvae.encoders.trunk import GaussianHead, Pool, pooling
from menvae.latent import LatentLayout
from menvae.registry import register


@register("encoder", "frozen", reference="design report, recommendations")
class FrozenFeatures(FrozenProjection):
    """Project one partition linearly from frozen features; a trained encoder computes the other partitions."""

    def __init__(
        self,
        in_channels: int,
        size: tuple[int, int, int],
        layout: LatentLayout,
        *,
        checkpoint: str,
        partition: str = "residual",
        pool: Pool = "average",
        initial_logvar: float | None = -3.0,
        trained: Mapping[str, Any] = DEFAULTS,
    ) -> None:
        """Build both encoders.

        Args:
            in_channels: C, number of modalities.
            size: (D, H, W) in voxels.
            layout: partitions of z.
            checkpoint: path of the pretrained encoder: ``best.ckpt`` of a run whose encoder has the layers of
                ``resnet``, on the same modalities and normalisation, or only such weights. The file is also needed
                whenever the weights of this run are loaded.
            partition: partition to project from the frozen features.
            pool: pooling of the coarsest frozen grid.
            initial_logvar: log variance of that partition before training; None: default initialisation.
            trained: configuration of the encoder of the other partitions.

        Raises:
            UserError: the partition does not exist or is the only one, or the checkpoint cannot be used (see
                `load_trunk`).
        """
        super().__init__(in_channels, size, layout, partition, trained)
        trunk, identity = load_trunk(path_of(checkpoint, "encoder.checkpoint"), in_channels, size, "encoder=frozen")
        self.frozen = FrozenTrunk(trunk, trained_on=identity)
        self.pool = pooling(pool)
        self.head = GaussianHead(trunk.num_pooled(pool), layout.sizes[partition], initial_logvar=initial_logvar)

    def frozen_features(self, inputs: Tensor, available: Tensor | None) -> Tensor:
        """Inputs [B, C, D, H, W], bool [B, C] or None -> the pooled frozen grid [B, F]."""
        pooled: Tensor = self.pool(self.frozen(inputs, available)["layer4"])
        return pooled
