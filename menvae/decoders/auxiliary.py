"""Auxiliary decoder: draws a small cube from the residual partition alone, to keep that partition in use."""

from __future__ import annotations

import math
from typing import Annotated

from torch import Tensor, nn

from menvae.decoders import Decoder
from menvae.latent import LatentLayout
from menvae.layers import Activation, OutputActivation, Upsampling, conv, only_volumes, up_blocks
from menvae.registry import Field, register

_START = 4
_SIDES = (16, 32, 64)


def auxiliary_side(size: tuple[int, int, int]) -> int:
    """Return the side t of the target cube: 16, 32 or 64, whichever is nearest in log to 0.4 times the longest side.

    >>> auxiliary_side((160, 160, 160)), auxiliary_side((32, 32, 32))
    (64, 16)
    """
    wanted = math.log(0.4 * max(size))
    return min(_SIDES, key=lambda side: abs(math.log(side) - wanted))


@register("decoder", "auxiliary", reference="SemiVAE Run 6")
class AuxiliaryDecoder(Decoder):
    """Linear to 4b channels on 4^3, up-blocks 2b, b, b/2, b/2 (as many as t requires), 3x3x3 convolution to C."""

    def __init__(
        self,
        layout: LatentLayout,
        out_channels: int,
        size: tuple[int, int, int],
        *,
        base_filters: Annotated[int, Field(ge=16, multiple_of=16)] = 16,
        upsampling: Upsampling = "transposed",
        activation: Activation = "linear",
        spectral_norm: bool = False,
    ) -> None:
        """Build the decoder.

        Args:
            layout: the decoded partition.
            out_channels: C, number of modalities.
            size: (D, H, W) of the full box in voxels; the output is t^3, see `auxiliary_side`.
            base_filters: b; b / 2 must hold the 8 groups of the last GroupNorm.
            upsampling: ``resize_conv`` (trilinear, then convolution), as in Run 6, ``nearest`` (fused with its
                convolution) or ``transposed``.
            activation: output activation: ``linear``, or ``tanh`` for intensities in [-1, 1].
            spectral_norm: apply spectral normalisation to every convolution.

        Raises:
            UserError: the inputs are rows of a table.
        """
        super().__init__()
        only_volumes(size, "decoder=auxiliary")
        side = auxiliary_side(size)
        self.output_size = (side, side, side)
        num_blocks = int(math.log2(side // _START))
        widths = [4 * base_filters, 2 * base_filters, base_filters, base_filters // 2, base_filters // 2]
        widths = widths[: num_blocks + 1]
        self.project = nn.Linear(layout.z_dim, widths[0] * _START**3)
        self.up = up_blocks(widths, upsampling=upsampling, spectral=spectral_norm)
        self.output = conv(widths[-1], out_channels, 3, spectral=spectral_norm)
        self.activation = OutputActivation(activation)

    def forward(self, z: Tensor) -> Tensor:
        """Z [B, P] -> reconstruction [B, C, t, t, t]."""
        out: Tensor = self.activation(self.output(self.up(self.project(z).unflatten(1, (-1, _START, _START, _START)))))
        return out
