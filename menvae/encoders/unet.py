"""A light U-Net that labels every voxel of an image."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from menvae.layers import Conv3d, Recomputable, conv, norm

BACKGROUND = 5.0
"""Logit of the background before training, when every voxel has about this chance to be none of a tumour: 98 %."""


class LightUNet(nn.Module):
    """Image -> logits of the labels of each voxel, in as little time as a VAE can spare.

    As the U-Net of Ronneberger, Fischer & Brox 2015 (MICCAI), with sums in place of concatenations, one convolution at
    full resolution on either way, and no normalisation there: together a third of the time.
    """

    def __init__(self, in_channels: int, num_labels: int, base_filters: int) -> None:
        """Build the network.

        Args:
            in_channels: C, number of modalities.
            num_labels: K, with the background.
            base_filters: channels at full resolution, b; 2b, 4b and 4b at the coarser ones.
        """
        super().__init__()
        widths = [base_filters * factor for factor in (1, 2, 4, 4)]
        steps = list(reversed(list(pairwise(widths))))
        self.first = Block(in_channels, widths[0], normed=False)
        self.down = nn.ModuleList(
            nn.Sequential(Block(fine, coarse, stride=2), Block(coarse, coarse)) for fine, coarse in pairwise(widths)
        )
        self.up = nn.ModuleList(nn.ConvTranspose3d(coarse, fine, 2, stride=2) for fine, coarse in steps)
        self.join = nn.ModuleList(Block(fine, fine, normed=fine != widths[0]) for fine, _ in steps)
        self.last = Conv3d(widths[0], num_labels, 1)
        assert self.last.bias is not None
        with torch.no_grad():
            self.last.bias[0] += BACKGROUND

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, C, D, H, W], sides multiples of 8 -> logits [B, K, D, H, W]."""
        features = [self.first(images)]
        for down in self.down:
            features.append(down(features[-1]))
        x = features.pop()
        for up, join in zip(self.up, self.join, strict=True):
            x = join(up(x) + features.pop())
        logits: Tensor = self.last(x)
        return logits


class Block(Recomputable):
    """3x3x3 convolution, GroupNorm (unless ``normed`` is off), ReLU."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, normed: bool = True) -> None:
        super().__init__()
        convolution = conv(in_channels, out_channels, 3, stride=stride, bias=not normed)
        normalise = [norm(out_channels)] if normed else []
        self.layers = nn.Sequential(convolution, *normalise, nn.ReLU(inplace=True))

    def compute(self, x: Tensor) -> Tensor:
        """X [B, C, D, H, W] -> [B, C', D / stride, H / stride, W / stride]."""
        out: Tensor = self.layers(x)
        return out
