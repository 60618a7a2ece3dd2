"""Base of encoders that project one partition from frozen features and train an encoder for the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from menvae.encoders import Encoder, Features
from menvae.errors import UserError
from menvae.latent import LatentLayout
from menvae.registry import bind_inside


class FrozenProjection(Encoder):
    """Project one partition linearly from frozen features; a trained encoder computes the other partitions.

    Attributes:
        layout: partitions of z.
        partition: the projected partition.
        others: the other partitions.
        trained: encoder of the other partitions.
        head: projection, built by the subclass: features [B, F], None -> mean [B, P], logvar [B, P].
    """

    head: nn.Module

    def __init__(
        self,
        in_channels: int,
        size: tuple[int, int, int],
        layout: LatentLayout,
        partition: str,
        trained: Mapping[str, Any],
    ) -> None:
        """Build the trained encoder.

        Args:
            in_channels: C, number of modalities.
            size: (D, H, W) in voxels.
            layout: partitions of z.
            partition: partition to project.
            trained: configuration of the encoder of the other partitions.

        Raises:
            UserError: the partition does not exist, or is the only one.
        """
        super().__init__()
        self.layout, self.partition = layout, partition
        others = {name: size for name, size in layout.sizes.items() if name != partition}
        if partition not in layout.sizes or not others:
            raise UserError(
                f"encoder.partition: '{partition}' is not allowed; choose one of {list(layout)}, which must be at "
                "least two"
            )
        self.others = LatentLayout(others)
        self.trained: Encoder = bind_inside("encoder", trained, "encoder.trained")(in_channels, size, self.others)
        self.hierarchical = self.trained.hierarchical

    def frozen_features(self, inputs: Tensor, available: Tensor | None) -> Tensor:
        """Inputs [B, C, D, H, W], bool [B, C] or None -> features to project [B, F], without gradient."""
        raise NotImplementedError

    def features(self, inputs: Tensor, available: Tensor | None = None) -> Features:
        """Inputs [B, C, D, H, W] -> the trained features, prefixed ``trained.``, and ``frozen`` [B, F]."""
        trained = self.trained.features(inputs, available)
        frozen = self.frozen_features(inputs, available)
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
