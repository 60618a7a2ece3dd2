"""Transposed-convolution decoder, symmetric to the ResNet encoder."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor, nn

from menvae.decoders import Decoder
from menvae.latent import LatentLayout
from menvae.layers import Activation, OutputActivation, coarse_grid, conv, up_blocks
from menvae.registry import Field, register


@register("decoder", "transposed", reference="Exp1 and Exp2a design reports")
class TransposedDecoder(Decoder):
    """Linear map of z to 8b channels on size / 16, four transposed up-blocks 4b, 2b, b, b/2, 3x3x3 convolution to C."""

    def __init__(
        self,
        layout: LatentLayout,
        out_channels: int,
        size: tuple[int, int, int],
        *,
        base_filters: Annotated[int, Field(ge=16, multiple_of=16)] = 16,
        activation: Activation = "linear",
        spectral_norm: bool = False,
    ) -> None:
        """Build the decoder.

        Args:
            layout: partitions of z.
            out_channels: C, number of modalities.
            size: (D, H, W) in voxels, multiples of 16.
            base_filters: b; b / 2 must hold the 8 groups of the last GroupNorm.
            activation: output activation: ``linear``, or ``tanh`` for intensities in [-1, 1].
            spectral_norm: apply spectral normalisation to every convolution.

        Raises:
            UserError: a side of ``size`` is not a multiple of 16.
        """
        super().__init__()
        self.output_size = size
        self.grid = coarse_grid(size, "decoder=transposed")
        widths = [8 * base_filters, 4 * base_filters, 2 * base_filters, base_filters, base_filters // 2]
        self.project = nn.Linear(layout.z_dim, widths[0] * self.grid[0] * self.grid[1] * self.grid[2])
        self.up = up_blocks(widths, upsampling="transposed", spectral=spectral_norm)
        self.output = conv(widths[-1], out_channels, 3, spectral=spectral_norm)
        self.activation = OutputActivation(activation)

    def forward(self, z: Tensor) -> Tensor:
        """Z [B, Z] -> reconstruction [B, C, D, H, W]."""
        out: Tensor = self.activation(self.output(self.up(self.project(z).unflatten(1, (-1, *self.grid)))))
        return out
