"""Decoders: z [B, Z] -> reconstruction [B, C, D, H, W].

Code passes (layout, out_channels, size) to the constructor; the configuration passes the tunables.
"""

from __future__ import annotations

from torch import Tensor, nn


class Decoder(nn.Module):
    """Base class of decoders.

    Attributes:
        output_size: (D, H, W) of the output: the full box, or smaller for an auxiliary decoder; empty for the rows of
            a table.
        draws_from_coordinates: whether it reads voxel coordinates, so that it can draw the average image without z.
    """

    output_size: tuple[int, ...]
    draws_from_coordinates: bool = False

    def forward(self, z: Tensor) -> Tensor:
        """Z [B, Z] -> reconstruction [B, C, *output_size]."""
        raise NotImplementedError
