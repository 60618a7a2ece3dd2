"""A light U-Net that labels every voxel of an image: half of the resolution first, then all of it around the tumour."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from menvae.kernels.resizing import mean_of_boxes, trilinear
from menvae.layers import Conv3d, Recomputable, conv, norm
from menvae.statistics.regions import centroids

BACKGROUND = 5.0
"""Logit of the background before training, when every voxel has about this chance to be none of a tumour: 98 %."""

Sides = tuple[int, int, int]


class CascadedUNet(nn.Module):
    """Image -> logits of the labels of each voxel, in as little time as a VAE can spare.

    A U-Net labels the image at half of its resolution. Convolutions at full resolution, which see the image and the
    features of the U-Net, correct its logits in a crop about the centroid of what it takes for the tumour. As the
    cascade of nnU-Net (Isensee et al. 2021), but for the crop, and that both stages are trained together.
    """

    def __init__(
        self,
        in_channels: int,
        num_labels: int,
        size: Sides,
        *,
        base_filters: int,
        fine_filters: int,
        fine_layers: int,
        crop: float,
    ) -> None:
        """Build the network.

        Args:
            in_channels: C, number of modalities.
            num_labels: K, with the background.
            size: (D, H, W) in voxels, multiples of 16.
            base_filters: channels of the U-Net at half resolution.
            fine_filters: channels at full resolution.
            fine_layers: 3x3x3 convolutions at full resolution.
            crop: share of each side of the box that the crop has.
        """
        super().__init__()
        self.size = size
        self.coarse_sides = _crop_sides(size, crop)
        self.sides = _twice(self.coarse_sides)
        self.coarse = LightUNet(in_channels, base_filters)
        self.label = Conv3d(base_filters, num_labels, 1)
        self.context = Conv3d(base_filters, fine_filters, 1)
        self.stem = conv(in_channels, fine_filters, 3, bias=False)
        self.joined = nn.Sequential(norm(fine_filters), nn.ReLU(inplace=True))
        self.fine = nn.Sequential(*(Block(fine_filters, fine_filters) for _ in range(fine_layers - 1)))
        self.correct = Conv3d(fine_filters, num_labels, 1)
        assert self.label.bias is not None
        with torch.no_grad():
            self.label.bias[0] += BACKGROUND
            self.correct.weight *= 0.1

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, C, D, H, W] -> logits [B, K, D, H, W]."""
        features = self.coarse(mean_of_boxes(images, 2))
        coarse = self.label(features)
        corner = _corner_of_crop(coarse, self.coarse_sides)
        small = _voxels(corner, self.coarse_sides, tuple(coarse.shape[2:]))
        voxels = _voxels(2 * corner, self.sides, self.size)
        context = _repeated(self.context(_cut(features, small, self.coarse_sides)))
        seen = self.joined(self.stem(_cut(images, voxels, self.sides)) + context)
        corrections = self.correct(self.fine(seen)).flatten(2)
        logits = trilinear(coarse, self.size).flatten(2)
        index = voxels.unsqueeze(1).expand_as(corrections)
        return logits.scatter_add(2, index, corrections.to(logits.dtype)).reshape(-1, logits.shape[1], *self.size)


class LightUNet(nn.Module):
    """Image [B, C, D, H, W], sides multiples of 8 -> features [B, b, D, H, W].

    As the U-Net of Ronneberger, Fischer & Brox 2015 (MICCAI), with sums in place of concatenations and one convolution
    at the finest resolution on either way.
    """

    def __init__(self, in_channels: int, base_filters: int) -> None:
        """Build the network.

        Args:
            in_channels: C, number of modalities.
            base_filters: channels at the finest resolution, b; 2b, 4b and 4b at the coarser ones.
        """
        super().__init__()
        widths = [base_filters * factor for factor in (1, 2, 4, 4)]
        steps = list(reversed(list(pairwise(widths))))
        self.first = Block(in_channels, widths[0])
        self.down = nn.ModuleList(
            nn.Sequential(Block(fine, coarse, stride=2), Block(coarse, coarse)) for fine, coarse in pairwise(widths)
        )
        self.up = nn.ModuleList(nn.ConvTranspose3d(coarse, fine, 2, stride=2) for fine, coarse in steps)
        self.join = nn.ModuleList(Block(fine, fine) for fine, _ in steps)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, C, D, H, W] -> features [B, b, D, H, W]."""
        features = [self.first(images)]
        for down in self.down:
            features.append(down(features[-1]))
        x: Tensor = features.pop()
        for up, join in zip(self.up, self.join, strict=True):
            x = join(up(x) + features.pop())
        return x


class Block(Recomputable):
    """3x3x3 convolution, GroupNorm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1) -> None:
        super().__init__()
        convolution = conv(in_channels, out_channels, 3, stride=stride, bias=False)
        self.layers = nn.Sequential(convolution, norm(out_channels), nn.ReLU(inplace=True))

    def compute(self, x: Tensor) -> Tensor:
        """X [B, C, D, H, W] -> [B, C', D / stride, H / stride, W / stride]."""
        out: Tensor = self.layers(x)
        return out


@torch.no_grad()
def _corner_of_crop(logits: Tensor, sides: Sides) -> Tensor:
    """Return the first voxels [B, 3] of crops inside the box, about the centroid of the voxels that are likely tumour.

    Without any, or if logits are not finite, which the objective reports, the crop is in the middle.

    Args:
        logits: [B, K, D, H, W]; the first label is the background.
        sides: of the crop.
    """
    with torch.autocast(logits.device.type, enabled=False):  # sums over voxels overflow float16
        tumour = (0.5 - logits.float().softmax(dim=1)[:, 0]).clamp(min=0.0)
        corners = [
            (centre.nan_to_num(nan=0.5 * length) - 0.5 * side).round().clamp(0, length - side).long()
            for centre, length, side in zip(centroids(tumour).unbind(1), tumour.shape[1:], sides, strict=True)
        ]
    return torch.stack(corners, dim=1)


def _voxels(corner: Tensor, sides: Sides, box: tuple[int, ...]) -> Tensor:
    """Return the places [B, N] of the voxels of crops among those of a box, both in row-major order."""
    axes = [corner[:, axis, None] + torch.arange(side, device=corner.device) for axis, side in enumerate(sides)]
    first, second, third = axes[0][:, :, None, None], axes[1][:, None, :, None], axes[2][:, None, None, :]
    return ((first * box[1] + second) * box[2] + third).flatten(1)


def _cut(x: Tensor, voxels: Tensor, sides: Sides) -> Tensor:
    """X [B, C, D, H, W] -> crops [B, C, *sides]."""
    index = voxels.unsqueeze(1).expand(-1, x.shape[1], -1)
    return x.flatten(2).gather(2, index).reshape(*x.shape[:2], *sides)


def _repeated(x: Tensor) -> Tensor:
    """X [B, C, D, H, W] -> every voxel twice along each axis."""
    return interpolate(x, scale_factor=2, mode="nearest")


def _crop_sides(size: Sides, crop: float) -> Sides:
    """Return the sides of a crop at half resolution."""
    first, second, third = (math.ceil(crop * side / 2) for side in size)
    return (first, second, third)


def _twice(sides: Sides) -> Sides:
    return (2 * sides[0], 2 * sides[1], 2 * sides[2])
