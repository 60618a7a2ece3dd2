"""One partition from axial slices seen by a frozen vision transformer, the others from a trained encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from torch import Tensor

from menvae.configuration import path_of
from menvae.encoders.frozen_features import FrozenProjection
from menvae.encoders.pretrained import FrozenTrunk
from menvae.encoders.resnet import DEFAULTS
from menvae.encoders.slices import SliceTrunk, load_vision_transformer
from menvae.encoders.trunk import GaussianHead
from menvae.latent import LatentLayout
from menvae.registry import Field, register


@register("encoder", "frozen_slices", reference="Oquab et al. 2024; design report, recommendations")
class FrozenSlices(FrozenProjection):
    """Project one partition linearly from frozen features of axial slices; train an encoder for the others."""

    def __init__(
        self,
        in_channels: int,
        size: tuple[int, int, int],
        layout: LatentLayout,
        *,
        checkpoint: str,
        partition: str = "residual",
        slices: Annotated[int, Field(ge=1)] = 16,
        image_size: Annotated[int, Field(ge=1)] | None = None,
        images_at_once: Annotated[int, Field(ge=1)] = 64,
        initial_logvar: float | None = -3.0,
        trained: Mapping[str, Any] = DEFAULTS,
    ) -> None:
        """Build both encoders.

        Args:
            in_channels: C, number of modalities.
            size: (D, H, W) in voxels.
            layout: partitions of z.
            checkpoint: local folder of a vision transformer with a class token, such as DINOv2, in Hugging Face
                format. The folder is also needed whenever the weights of this run are loaded.
            partition: partition to project from the frozen features.
            slices: number of axial slices per modality, equidistant through the box.
            image_size: side in pixels to which slices are resized, a multiple of the patch size; None: the size that
                the transformer was trained on. The cost grows at least quadratically.
            images_at_once: images per call of the transformer; limits memory without changing the result.
            initial_logvar: log variance of that partition before training; None: default initialisation.
            trained: configuration of the encoder of the other partitions.

        Raises:
            UserError: the partition does not exist or is the only one, the checkpoint cannot be used (see
                `load_vision_transformer`), or ``slices`` or ``image_size`` is invalid (see `SliceTrunk`).
        """
        super().__init__(in_channels, size, layout, partition, trained)
        transformer = load_vision_transformer(path_of(checkpoint, "encoder.checkpoint"))
        trunk = SliceTrunk(transformer, size, slices=slices, image_size=image_size, images_at_once=images_at_once)
        self.frozen = FrozenTrunk(trunk, transformer.weights)
        self.head = GaussianHead(
            in_channels * trunk.num_features, layout.sizes[partition], initial_logvar=initial_logvar
        )

    def frozen_features(self, inputs: Tensor, available: Tensor | None) -> Tensor:
        """Inputs [B, C, D, H, W], bool [B, C] or None -> averaged class tokens [B, C * F]."""
        averaged: Tensor = self.frozen(inputs, available)["slices"]
        return averaged
