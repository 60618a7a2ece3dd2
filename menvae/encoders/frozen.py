"""One partition from the features of a frozen, pretrained encoder; the others from an encoder that is trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from menvae.encoders.frozen_features import FrozenProjection
from menvae.encoders.pretrained import FrozenTrunk, load_trunk
from menvae.encoders.resnet import DEFAULTS
from menvae.encoders.trunk import GaussianHead, Pool, pooling
from menvae.latent import LatentLayout
from menvae.registry import register


@register("encoder", "frozen", reference="design report, recommendations")
class FrozenFeatures(FrozenProjection):
    """The residual is a linear projection of frozen features; the other partitions have an encoder of their own."""

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
            layout: the partitions of z.
            checkpoint: path of the pretrained encoder: ``best.ckpt`` of a run whose encoder has the layers of
                ``resnet``, on the same modalities and normalisation, or such weights alone. The run needs it whenever
                its weights are loaded.
            partition: which is projected from the frozen features.
            pool: of the coarsest frozen grid.
            initial_logvar: log variance of that partition before training.
            trained: configuration of the encoder of the other partitions.

        Raises:
            UserError: no such partition, or no other; or a checkpoint that cannot be used (see `load_trunk`).
        """
        super().__init__(in_channels, size, layout, partition, trained)
        trunk, identity = load_trunk(Path(checkpoint).expanduser(), in_channels, size, "encoder=frozen")
        self.frozen = FrozenTrunk(trunk, trained_on=identity)
        self.pool = pooling(pool)
        self.head = GaussianHead(trunk.num_pooled(pool), layout.sizes[partition], initial_logvar=initial_logvar)

    def frozen_features(self, inputs: Tensor, available: Tensor | None) -> Tensor:
        """Inputs [B, C, D, H, W] and bool [B, C] or None -> the pooled frozen grid [B, F]."""
        pooled: Tensor = self.pool(self.frozen(inputs, available)["layer4"])
        return pooled
