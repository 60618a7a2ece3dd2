"""One partition from the features of a frozen, pretrained encoder; the others from an encoder that is trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from menvae.encoders import Encoder, Features
from menvae.encoders.pretrained import FrozenTrunk, load_trunk
from menvae.encoders.resnet import DEFAULTS
from menvae.encoders.trunk import GaussianHead, Pool, pooling
from menvae.errors import UserError
from menvae.latent import LatentLayout
from menvae.registry import bind, register


@register("encoder", "frozen", reference="design report, recommendations")
class FrozenFeatures(Encoder):
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
                ``resnet``, or such weights alone. The run needs it whenever its weights are loaded.
            partition: which is projected from the frozen features.
            pool: of the coarsest frozen grid.
            initial_logvar: log variance of that partition before training.
            trained: configuration of the encoder of the other partitions.

        Raises:
            UserError: no such partition, or no other; or a checkpoint that cannot be used (see `load_trunk`).
        """
        super().__init__()
        self.layout, self.partition = layout, partition
        others = {name: size for name, size in layout.sizes.items() if name != partition}
        if partition not in layout.sizes or not others:
            raise UserError(f"encoder.partition: '{partition}' is not allowed; it is one of several of {list(layout)}")
        self.others = LatentLayout(others)
        self.trained: Encoder = bind("encoder", trained, "encoder.trained")(in_channels, size, self.others)
        self.hierarchical = self.trained.hierarchical
        trunk = load_trunk(Path(checkpoint).expanduser(), in_channels, size, "encoder=frozen")
        self.frozen = FrozenTrunk(trunk)
        self.pool = pooling(pool)
        self.head = GaussianHead(trunk.num_pooled(pool), layout.sizes[partition], initial_logvar=initial_logvar)

    def features(self, inputs: Tensor, available: Tensor | None = None) -> Features:
        """Inputs [B, C, D, H, W] -> the features of both."""
        trained = self.trained.features(inputs, available)
        frozen = self.pool(self.frozen(inputs, available)["layer4"])
        return {**{f"trained.{name}": tensor for name, tensor in trained.items()}, "frozen": frozen}

    def posterior(self, features: Features, *, isolated: bool = False) -> tuple[Tensor, Tensor]:
        """Features -> mean [B, Z], logvar [B, Z], in the order of the layout."""
        own = {name.removeprefix("trained."): x for name, x in features.items() if name.startswith("trained.")}
        mean, logvar = (self.others.split(x) for x in self.trained.posterior(own, isolated=isolated))
        mean[self.partition], logvar[self.partition] = self.head(features["frozen"], None)
        return (
            torch.cat([mean[name] for name in self.layout], dim=1),
            torch.cat([logvar[name] for name in self.layout], dim=1),
        )
