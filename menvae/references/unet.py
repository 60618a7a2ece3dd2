"""A small U-Net that labels every voxel of an image."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from menvae.layers import Conv3d

WIDTHS = (16, 32, 64)
"""Channels of each resolution, finest first."""


class UNet(nn.Module):
    """Image -> logits of the labels of each voxel.

    Each resolution halves the one before it by a strided convolution; the way back joins the features of the same
    resolution (Ronneberger, Fischer & Brox 2015, MICCAI). Images of any size are padded to a multiple of the coarsest
    voxel, and the logits are cut back. No layer normalises: statistics of a crop, on which it is trained, are not those
    of an image.
    """

    def __init__(self, in_channels: int, num_labels: int) -> None:
        """Build the network.

        Args:
            in_channels: C, number of modalities.
            num_labels: K, with the background.
        """
        super().__init__()
        self.first = _block(in_channels, WIDTHS[0])
        self.down = nn.ModuleList(
            nn.Sequential(_block(fine, coarse, stride=2), _block(coarse, coarse)) for fine, coarse in pairwise(WIDTHS)
        )
        steps = list(reversed(list(pairwise(WIDTHS))))
        self.up = nn.ModuleList(nn.ConvTranspose3d(coarse, fine, 2, stride=2) for fine, coarse in steps)
        self.join = nn.ModuleList(_block(2 * fine, fine) for fine, _ in steps)
        self.last = Conv3d(WIDTHS[0], num_labels, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, C, D, H, W] -> logits [B, K, D, H, W]."""
        sides = images.shape[2:]
        coarsest = 2 ** len(self.down)
        x = pad(images, [amount for side in reversed(sides) for amount in (0, -side % coarsest)])
        features = [self.first(x)]
        for down in self.down:
            features.append(down(features[-1]))
        x = features.pop()
        for up, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat([features.pop(), up(x)], dim=1))
        logits: Tensor = self.last(x)
        return logits[:, :, : sides[0], : sides[1], : sides[2]]


def _block(in_channels: int, out_channels: int, stride: int = 1) -> nn.Module:
    layer = Conv3d(in_channels, out_channels, 3, stride=stride, padding=1)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return nn.Sequential(layer, nn.ReLU(inplace=True))
