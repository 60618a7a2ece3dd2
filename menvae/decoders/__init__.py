"""Decoders: z [B, Z] -> reconstruction [B, C, D, H, W].

Code passes (layout, out_channels, size) to the constructor; the configuration passes the tunables.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from torch import Tensor, nn


class Decoder(nn.Module):
    """Base class of decoders.

    Attributes:
        output_size: (D, H, W) of the output: the full box, or smaller for an auxiliary decoder; empty for the rows of
            a table.
        draws_from_coordinates: whether it reads voxel coordinates, so that it can draw the average image without z.
        offers: names of the outputs of `draw` beside the reconstruction, which a term of the loss must train, each with
            the overrides that add such a term. They are outputs of the model.
    """

    output_size: tuple[int, ...]
    draws_from_coordinates: bool = False
    offers: Mapping[str, str] = MappingProxyType({})

    def forward(self, z: Tensor) -> Tensor:
        """Z [B, Z] -> reconstruction [B, C, D, H, W], of ``output_size``."""
        raise NotImplementedError

    def draw(self, z: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Z [B, Z] -> reconstruction, and the outputs named in ``offers``."""
        return self(z), {}
