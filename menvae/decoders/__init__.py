"""Decoders: z [B, Z] -> reconstruction [B, C, D, H, W].

A decoder is constructed with (z_dim, out_channels, size) by code, and its tunables by configuration.
"""

from __future__ import annotations

from torch import Tensor, nn


class Decoder(nn.Module):
    """What every decoder offers to models and to the advice before training.

    Attributes:
        output_size: (D, H, W) of what it draws: the box, or for an auxiliary decoder something smaller; empty for rows
            of a table.
        draws_from_coordinates: whether it reads the coordinates of voxels, so that it can draw the average image
            without z.
    """

    output_size: tuple[int, ...]
    draws_from_coordinates: bool = False

    def forward(self, z: Tensor) -> Tensor:
        """Z [B, Z] -> reconstruction [B, C, *output_size]."""
        raise NotImplementedError
