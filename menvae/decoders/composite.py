"""A decoder that draws the tumour from its partitions, and lays it over the head that it draws from the residual."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations_with_replacement
from types import MappingProxyType
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from menvae.decoders import Decoder
from menvae.decoders.sbd import DEFAULTS, coordinate_grid
from menvae.errors import UserError, about
from menvae.kernels.resizing import mean_of_boxes, trilinear
from menvae.latent import LatentLayout
from menvae.layers import Conv3d, conv, only_volumes
from menvae.registry import Field, bind_inside, register
from menvae.types import NUM_LABELS

_BACKGROUND = 3.0
"""Logit of no tumour before training."""
_FARTHEST = 6.0
"""Largest coordinate relative to the tumour, in its radii."""
_NUM_COORDINATES = 3 + 6 + 1 + 3


@register("decoder", "composite", reference="Porter & Duff 1984; Yan et al. 2016 (layered attribute2image); menvae")
class CompositeDecoder(Decoder):
    """Head from some partitions, tumour from the others, laid over it with the drawn share of the tumour as its weight.

    The tumour is drawn voxel by voxel from coordinates relative to a centre, radius and stretch that are linear in z,
    and from the head beneath it. Its label shares are the output ``drawn_segmentation``, which the term of this name
    trains. The head is a trained average head plus what is drawn from z; its gain and offset, which a normalisation
    over the whole image makes depend on the tumour, are linear in the partitions of the tumour.
    """

    offers = MappingProxyType(
        {
            "drawn_segmentation": "+term@loss.terms.drawn_segmentation=segmentation "
            "loss.terms.drawn_segmentation.output=drawn_segmentation +loss.lambda_drawn_segmentation=1"
        }
    )
    coordinates: Tensor
    draws_from_coordinates = True

    def __init__(
        self,
        layout: LatentLayout,
        out_channels: int,
        size: tuple[int, int, int],
        *,
        head: Mapping[str, Any] = DEFAULTS,
        head_partitions: tuple[str, ...] = ("residual",),
        base_filters: Annotated[int, Field(ge=8, multiple_of=8)] = 32,
        stride: Literal[1, 2, 4] = 2,
    ) -> None:
        """Build the decoder.

        Args:
            layout: partitions of z.
            out_channels: C, number of modalities.
            size: (D, H, W) in voxels, multiples of 16.
            head: configuration of the decoder of the head.
            head_partitions: partitions that the head is drawn from; the others draw the tumour.
            base_filters: channels of the layers of the tumour.
            stride: voxels per side of the grid on which the tumour is drawn, before trilinear interpolation.

        Raises:
            UserError: the inputs are rows of a table, a partition does not exist, none is left to the tumour, or
                ``head`` draws another box.
        """
        super().__init__()
        only_volumes(size, "decoder=composite")
        with about("decoder.head_partitions"):
            self.head_partitions = layout.chosen(head_partitions)
        self.tumour_partitions = [name for name in layout if name not in self.head_partitions]
        if not self.tumour_partitions:
            raise UserError(f"decoder.head_partitions: {self.head_partitions} are all; leave one for the tumour")
        self.layout, self.output_size, self.stride = layout, size, stride
        bound = bind_inside("decoder", head, "decoder.head")
        self.head: Decoder = bound(layout.of(self.head_partitions), out_channels, size)
        if self.head.output_size != size:
            raise UserError(
                f"decoder.head.name: '{bound.part.name}' is not allowed; it outputs {list(self.head.output_size)}, not "
                f"data.roi_size={list(size)}"
            )
        self.average = nn.Parameter(torch.zeros(1, out_channels, *size))
        num_latents = layout.of(self.tumour_partitions).z_dim
        coarse = (size[0] // stride, size[1] // stride, size[2] // stride)
        self.register_buffer("coordinates", coordinate_grid(coarse), persistent=False)
        self.place = nn.Linear(num_latents, 3 + 1 + 9)
        self.levels = nn.Linear(num_latents, 2 * out_channels)
        for layer in (self.place, self.levels):
            layer.weight.data.mul_(0.01)
            layer.bias.data.zero_()
        self.codes = nn.ModuleList(nn.Linear(num_latents, base_filters) for _ in range(2))
        self.first = conv(_NUM_COORDINATES + out_channels, base_filters, 1)
        self.second = conv(base_filters, base_filters, 1)
        self.last = Conv3d(base_filters, NUM_LABELS + out_channels, 1)
        assert self.last.bias is not None
        with torch.no_grad():
            self.last.bias[0] += _BACKGROUND

    def draw(self, z: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Z [B, Z] -> reconstruction [B, C, D, H, W] and ``drawn_segmentation`` [B, K, D, H, W], logits."""
        head = self.average + self.head(self.layout.join(z, self.head_partitions))
        code = self.layout.join(z, self.tumour_partitions)
        beneath = mean_of_boxes(head.detach(), self.stride)
        x = torch.cat([self._relative_coordinates(code).to(head.dtype), beneath], dim=1)
        x = silu(self.first(x) + _broadcast(self.codes[0](code)))
        x = self.last(silu(self.second(x) + _broadcast(self.codes[1](code))))
        # split before interpolation: afterwards, and in the gradient, it would cost a copy of full resolution
        parts = torch.split(x, [NUM_LABELS, x.shape[1] - NUM_LABELS], dim=1)
        logits, tumour = (trilinear(part, self.output_size) if self.stride > 1 else part for part in parts)
        background, labels = torch.split(logits.float(), [1, NUM_LABELS - 1], dim=1)
        share = torch.sigmoid(labels.logsumexp(dim=1, keepdim=True) - background)
        gain, offset = (_broadcast(values) for values in self.levels(code).chunk(2, dim=1))
        head = (head * (1.0 + gain) + offset).float()
        return torch.lerp(head, tumour.float(), share), {"drawn_segmentation": logits}

    def forward(self, z: Tensor) -> Tensor:
        """Z [B, Z] -> reconstruction [B, C, D, H, W]."""
        return self.draw(z)[0]

    def _relative_coordinates(self, code: Tensor) -> Tensor:
        """Code [B, P] -> coordinates in the tumour's frame, their products and norm, and absolute ones [B, 13, ...]."""
        place = self.place(code).float()
        centre, radius, stretch = place[:, :3], math.log(0.3) + place[:, 3:4], place[:, 4:].reshape(-1, 3, 3)
        absolute = self.coordinates.expand(len(code), -1, -1, -1, -1)
        frame = (torch.eye(3, device=place.device) + stretch) * torch.exp(-radius.clamp(-4.0, 1.0)).unsqueeze(2)
        with torch.autocast(frame.device.type, enabled=False):
            own = torch.einsum("bij,bjdhw->bidhw", frame, absolute - _broadcast(centre)).clamp(-_FARTHEST, _FARTHEST)
        products = [own[:, i] * own[:, j] / 3.0 for i, j in combinations_with_replacement(range(3), 2)]
        norm = own.square().sum(dim=1).clamp(min=1e-6).sqrt()
        return torch.cat([own, torch.stack([*products, norm], dim=1), absolute], dim=1)


def _broadcast(values: Tensor) -> Tensor:
    """Values [B, C] -> [B, C, 1, 1, 1]."""
    return values[:, :, None, None, None]
