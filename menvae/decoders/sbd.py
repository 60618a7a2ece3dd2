"""Spatial broadcast decoder: repeats z over a coarse grid and appends the coordinates of each grid point."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from menvae.decoders import Decoder
from menvae.latent import LatentLayout
from menvae.layers import Activation, OutputActivation, Upsampling, coarse_grid, conv, norm, stored_weight, up_blocks
from menvae.registry import Field, register

DEFAULTS: Mapping[str, Any] = {
    "name": "sbd",
    "base_filters": 16,
    "mixing_layers": 2,
    "latent_gain": 0.01,
    "final_norm": False,
    "upsampling": "transposed",
    "activation": "linear",
    "spectral_norm": False,
}
"""Content of ``conf/decoder/sbd.yaml``, the default of decoders that contain another decoder."""


def coordinate_grid(grid: tuple[int, int, int]) -> Tensor:
    """Return coordinates [1, 3, D, H, W] in [-1, 1], channels in the order depth, height, width (R, A, S).

    The coordinate along an axis of one voxel is 0.

    >>> coordinate_grid((2, 1, 3))[0, 2, 0, 0]
    tensor([-1.,  0.,  1.])
    """
    axes = [torch.linspace(-1.0, 1.0, side) if side > 1 else torch.zeros(1) for side in grid]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).unsqueeze(0)


@register("decoder", "sbd", reference="Watters et al. 2019; SemiVAE Run 6")
class SpatialBroadcastDecoder(Decoder):
    """Broadcast z and coordinates on size / 16, 1x1x1 convolution to 8b, four up-blocks 4b, 2b, b, b/2, 3x3x3 to C."""

    coordinates: Tensor
    draws_from_coordinates = True

    def __init__(
        self,
        layout: LatentLayout,
        out_channels: int,
        size: tuple[int, int, int],
        *,
        base_filters: Annotated[int, Field(ge=16, multiple_of=16)] = 16,
        mixing_layers: Annotated[int, Field(ge=1)] = 2,
        latent_gain: Annotated[float, Field(gt=0.0)] = 0.01,
        final_norm: bool = False,
        upsampling: Upsampling = "transposed",
        activation: Activation = "linear",
        spectral_norm: bool = False,
    ) -> None:
        """Build the decoder.

        Args:
            layout: partitions of z.
            out_channels: C, number of modalities.
            size: (D, H, W) in voxels, multiples of 16.
            base_filters: b; b / 2 must hold the 8 groups of the last GroupNorm.
            mixing_layers: number of 1x1x1 convolutions before the first up-block. The second lets z interact with
                position, so that the decoder uses z after a third of the steps. Run 6 has one.
            latent_gain: factor on the initial weights of z in the first of them. Below 1, the decoder learns the
                average image before it uses z; at 1, it learns that image by suppressing z.
            final_norm: GroupNorm in the last up-block. At b = 16 it has one group per channel, which removes each
                subject's own intensity from every channel.
            upsampling: ``resize_conv`` (trilinear, then convolution), ``nearest`` (fused with its convolution) or
                ``transposed``.
            activation: output activation: ``linear``, or ``tanh`` for intensities in [-1, 1].
            spectral_norm: apply spectral normalisation to every convolution.

        Raises:
            UserError: a side of ``size`` is not a multiple of 16.
        """
        super().__init__()
        self.output_size = size
        self.register_buffer("coordinates", coordinate_grid(coarse_grid(size, "decoder=sbd")), persistent=False)
        widths = [8 * base_filters, 4 * base_filters, 2 * base_filters, base_filters, base_filters // 2]
        mixing: list[nn.Module] = []
        width_in = layout.z_dim + 3
        for _ in range(mixing_layers - 1):
            mixing += [conv(width_in, widths[0], 1, spectral=spectral_norm), nn.ReLU(inplace=True)]
            width_in = widths[0]
        mixing += [conv(width_in, widths[0], 1, bias=False, spectral=spectral_norm), norm(widths[0])]
        self.mixing = nn.Sequential(*mixing, nn.ReLU(inplace=True))
        with torch.no_grad():
            stored_weight(self.mixing[0])[:, : layout.z_dim] *= latent_gain
        self.up = up_blocks(widths, upsampling=upsampling, spectral=spectral_norm, final_norm=final_norm)
        self.output = conv(widths[-1], out_channels, 3, spectral=spectral_norm)
        self.activation = OutputActivation(activation)

    def forward(self, z: Tensor) -> Tensor:
        """Z [B, Z] -> reconstruction [B, C, D, H, W]."""
        grid = self.coordinates.shape[2:]
        tiled = z[:, :, None, None, None].expand(-1, -1, *grid)
        coordinates = self.coordinates.to(z.dtype).expand(len(z), -1, -1, -1, -1)
        out: Tensor = self.activation(self.output(self.up(self.mixing(torch.cat([tiled, coordinates], dim=1)))))
        return out
