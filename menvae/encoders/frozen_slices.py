"""One partition from slices that a frozen vision transformer has seen; the others from an encoder that is trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from torch import Tensor

from menvae.encoders.frozen_features import FrozenProjection
from menvae.encoders.pretrained import FrozenTrunk
from menvae.encoders.resnet import DEFAULTS
from menvae.encoders.slices import SliceTrunk, load_vision_transformer
from menvae.encoders.trunk import GaussianHead
from menvae.latent import LatentLayout
from menvae.registry import Field, register


@register("encoder", "frozen_slices", reference="Oquab et al. 2024; design report, recommendations")
class FrozenSlices(FrozenProjection):
    """The residual is a linear projection of frozen features of axial slices; the others have a trained encoder."""

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
            layout: the partitions of z.
            checkpoint: local folder of a vision transformer with a class token, DINOv2 and the like, in the format of
                Hugging Face. The run needs it whenever its weights are loaded.
            partition: which is projected from the frozen features.
            slices: how many axial slices it sees of each modality, equidistant through the box.
            image_size: side in pixels to which slices are resized, a multiple of the patch; None: what the
                transformer was trained on. Time grows with its square or faster.
            images_at_once: how many images the transformer sees at once, which bounds the memory and changes nothing
                else.
            initial_logvar: log variance of that partition before training.
            trained: configuration of the encoder of the other partitions.

        Raises:
            UserError: no such partition, or no other; a checkpoint that cannot be used (see
                `load_vision_transformer`); or slices that cannot be had (see `SliceTrunk`).
        """
        super().__init__(in_channels, size, layout, partition, trained)
        transformer = load_vision_transformer(Path(checkpoint).expanduser())
        trunk = SliceTrunk(transformer, size, slices=slices, image_size=image_size, images_at_once=images_at_once)
        self.frozen = FrozenTrunk(trunk, transformer.weights)
        self.head = GaussianHead(
            in_channels * trunk.num_features, layout.sizes[partition], initial_logvar=initial_logvar
        )

    def frozen_features(self, inputs: Tensor, available: Tensor | None) -> Tensor:
        """Inputs [B, C, D, H, W] and bool [B, C] or None -> the averaged class tokens [B, C * F]."""
        averaged: Tensor = self.frozen(inputs, available)["slices"]
        return averaged
