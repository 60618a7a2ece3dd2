"""Modality-specific decoders: one decoder per modality, all from the same z."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from menvae.decoders import Decoder
from menvae.decoders.sbd import DEFAULTS
from menvae.errors import UserError
from menvae.latent import LatentLayout
from menvae.registry import bind_inside, register


@register("decoder", "per_modality", reference="recommendations of the design reports")
class PerModalityDecoder(Decoder):
    """One decoder per modality, all with the same configuration and one output channel.

    The modalities share only z. To balance their errors, see ``per_modality`` of the term ``calibrated``.
    """

    def __init__(
        self, layout: LatentLayout, out_channels: int, size: tuple[int, int, int], *, each: Mapping[str, Any] = DEFAULTS
    ) -> None:
        """Build the decoders.

        Args:
            layout: partitions of z.
            out_channels: C, number of modalities.
            size: (D, H, W) in voxels.
            each: configuration of each decoder; ``decoder@decoder.each=<name>`` chooses another.

        Raises:
            UserError: ``each`` is not a decoder, or is ``per_modality`` itself.
        """
        super().__init__()
        bound = bind_inside("decoder", each, "decoder.each")
        if bound.part.factory is PerModalityDecoder:
            raise UserError(
                "decoder.each.name: 'per_modality' is not allowed; choose a decoder of a single modality, such as sbd"
            )
        self.decoders = nn.ModuleList(bound(layout, 1, size) for _ in range(out_channels))
        self.output_size: tuple[int, int, int] = self.decoders[0].output_size  # type: ignore[assignment]

    def forward(self, z: Tensor) -> Tensor:
        """Z [B, Z] -> reconstruction [B, C, D, H, W], channels in the order of the modalities."""
        return torch.cat([decoder(z) for decoder in self.decoders], dim=1)
