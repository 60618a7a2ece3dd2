"""Volume, place and shape of the regions of a soft label map, as tensors on any device, without gradient.

They describe the same properties as `menvae.data.masks.features`, in units of the box and without its missing values,
so that a small network can read the targets off them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from itertools import product
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from menvae.statistics.mesh import cell_areas, cell_volumes

NUM_SHAPE_MEASURES: Final = 29
OF_CORE: Final = slice(0, 3)
OF_TUMOUR: Final = slice(3, 29)
"""Measures of the shape by what they describe."""
CORE: Final = 1
"""Label whose shape is measured beside that of the whole tumour."""

_SMALLEST_SHARE = 2e-5
"""Share of the box that is added to volumes before their logarithm: 160 mm^3 of (200 mm)^3."""
LARGEST: Final = 5.0
"""Measures are cut there."""


class RegionMeasures(NamedTuple):
    """Measures of a batch, shifted and scaled by constants so that they are of order 1, and cut at -5 and 5.

    Attributes:
        volume: logarithm of the share of the box that the tumour and each of its labels fill [B, K].
        location: centroid of the tumour along D, H, W [B, 3].
        shape: relative to the size, but for the volume of the core [B, 29]. Of the core: sphericity, volume, soft area.
            Of the tumour: sphericity, soft area, volume over the cube of the mean width, ratio of the extents along D
            and H; second moments (6); widths along axes and diagonals (13); soft extents (3).
    """

    volume: Tensor
    location: Tensor
    shape: Tensor


class RegionMeter(torch.nn.Module):
    """Label shares [B, K, D, H, W], which sum to 1 over K = 4 labels -> `RegionMeasures`; the first is the background.

    Surfaces are those of the marching-cubes mesh of the likeliest labels (`menvae.statistics.mesh`), and soft ones the
    total variation of the shares.
    """

    tables: Tensor
    ball: Tensor

    def __init__(self) -> None:
        """Prepare the tables of the mesh: volume and area in each of 256 cells [2, 256]."""
        super().__init__()
        ball = (0.08, 0.0, 0.0, 0.08, 0.0, 0.08)
        for name, table in (("tables", np.stack([cell_volumes(), cell_areas()])), ("ball", ball)):
            self.register_buffer(name, torch.as_tensor(table, dtype=torch.float32), persistent=False)

    @torch.no_grad()
    def forward(self, shares: Tensor) -> RegionMeasures:
        """Measure a batch in float32, also under autocast: sums over voxels overflow float16."""
        with torch.autocast(shares.device.type, enabled=False):
            return self._measured(shares.float())

    def _measured(self, shares: Tensor) -> RegionMeasures:
        tumour, core = 1.0 - shares[:, 0], shares[:, CORE]
        voxels = torch.cat([tumour.unsqueeze(1), shares[:, 1:]], dim=1).flatten(2).sum(dim=2)
        volume = (torch.log(voxels / tumour[0].numel() + _SMALLEST_SHARE) + 6.0) / 1.5
        centre, moments = _moments(tumour, voxels[:, 0])
        is_tumour, is_core = _likeliest(shares)
        side = voxels[:, :1].clamp(min=1.0).log() / 3.0  # logarithm of the side of a cube of this volume
        side_of_core = voxels[:, CORE].clamp(min=1.0).log() / 3.0
        spheric, size = self._sphericity(is_tumour)
        spheric_core, size_of_core = self._sphericity(is_core)
        widths, extents = _widths(is_tumour), _soft_extents(tumour)
        slender = (widths.log() - side - 0.3) / 0.25
        shape = [
            (spheric_core - 0.8) / 0.06,
            ((size_of_core / tumour[0].numel() + _SMALLEST_SHARE).log() + 9.4) / 1.5,
            (_soft_area(core).log() - 2.0 * side_of_core - 1.5) / 0.3,
            (spheric - 0.8) / 0.06,
            (_soft_area(tumour).log() - 2.0 * side[:, 0] - 1.9) / 0.1,
            (size.log() - widths.log().mean(dim=1) * 3.0 + 1.0) / 0.15,
            (widths[:, 0] / widths[:, 1]).log() / 0.3,
            *((moments - self.ball) / 0.04).unbind(1),
            *slender.unbind(1),
            *((extents.log() - side - 0.3) / 0.25).unbind(1),
        ]
        return RegionMeasures(
            volume.clamp(-LARGEST, LARGEST),
            ((centre - 0.5) / 0.15).clamp(-LARGEST, LARGEST),
            torch.stack(shape, dim=1).clamp(-LARGEST, LARGEST),
        )

    def _sphericity(self, region: Tensor) -> tuple[Tensor, Tensor]:
        """Region, bool [B, D, H, W] -> sphericity [B] and volume [B] of its mesh, in voxels; those of one at least."""
        cells = pad(region.to(torch.uint8), (1, 1, 1, 1, 1, 1))
        for axis, num_bits in ((3, 1), (2, 2), (1, 4)):
            length = cells.shape[axis] - 1
            cells = cells.narrow(axis, 0, length) | (cells.narrow(axis, 1, length) << num_bits)
        places = cells.flatten().int()
        volume, area = (table.index_select(0, places).view(len(region), -1).sum(dim=1) for table in self.tables)
        volume, area = volume.clamp(min=1.0 / 6.0), area.clamp(min=math.sqrt(3.0))
        return (36.0 * math.pi * volume.square()).pow(1.0 / 3.0) / area, volume


def _likeliest(shares: Tensor) -> tuple[Tensor, Tensor]:
    """Return where the likeliest label is one of the tumour, and where it is the core, bool [B, D, H, W] each.

    The first of equal shares counts, as in `torch.argmax`, which takes ten times as long over an axis of four channels.
    """
    background, core = shares[:, 0], shares[:, CORE]
    others = reduce(torch.maximum, shares[:, CORE + 1 :].unbind(1))
    return torch.maximum(core, others) > background, (core > background) & (core >= others)


def centroids(region: Tensor) -> Tensor:
    """Region [B, D, H, W] -> centroid in voxels from the corner of the box [B, 3]; of an empty region, the middle."""
    planes, points = _marginals(region)
    return _centre(planes, points, planes[0].sum(dim=1))


def _centre(planes: Sequence[Tensor], points: Sequence[Tensor], voxels: Tensor) -> Tensor:
    total = voxels + 1e-3
    found = [(plane @ point + 5e-4 * len(point)) / total for plane, point in zip(planes, points, strict=True)]
    return torch.stack(found, dim=1)


def _marginals(region: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Return the sums of the planes along each axis [B, side], and the centres of their voxels [side]."""
    planes = [region.sum(dim=[other for other in (1, 2, 3) if other != axis]) for axis in (1, 2, 3)]
    points = [torch.arange(side, device=region.device) + 0.5 for side in region.shape[1:]]
    return planes, points


def _moments(region: Tensor, voxels: Tensor) -> tuple[Tensor, Tensor]:
    """Region [B, D, H, W] and its sum [B] -> centroid [B, 3] in shares of the box, and second moments [B, 6].

    The latter are D D, D H, D W, H H, H W, W W about the centroid, in voxels, over the volume to the power 2 / 3; they
    are 0.077 for a ball and 0 off the diagonal.
    """
    sides = region.shape[1:]
    planes, points = _marginals(region)
    centre = _centre(planes, points, voxels)
    total = (voxels + 1e-3).unsqueeze(1)
    second = []
    for first, other in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)):
        if first == other:
            mean = planes[first] @ points[first].square()
        else:
            flat = region.sum(dim=4 - first - other)  # the axis that is neither, plus 1
            mean = torch.einsum("bxy,x,y->b", flat, points[first], points[other])
        second.append(mean / total[:, 0] - centre[:, first] * centre[:, other])
    scale = voxels.clamp(min=1.0).pow(2.0 / 3.0).unsqueeze(1)
    shares = torch.stack([centre[:, axis] / side for axis, side in enumerate(sides)], dim=1)
    return shares, torch.stack(second, dim=1) / scale


def _soft_area(region: Tensor) -> Tensor:
    """Region [B, D, H, W] -> total variation [B] in faces of voxels, 1 at least."""
    padded = pad(region, (1, 1, 1, 1, 1, 1))
    here = padded[:, :-1, :-1, :-1]
    squares = (padded[:, 1:, :-1, :-1] - here).square_()
    for neighbour in (padded[:, :-1, 1:, :-1], padded[:, :-1, :-1, 1:]):
        step = neighbour - here
        squares.addcmul_(step, step)
    return squares.sqrt_().flatten(1).sum(dim=1).clamp(min=1.0)


def _soft_extents(region: Tensor) -> Tensor:
    """Region [B, D, H, W] -> sum of its largest value in each plane, along D, H, W [B, 3], 1 at least."""
    along = [region.amax(dim=[other for other in (1, 2, 3) if other != axis]).sum(dim=1) for axis in (1, 2, 3)]
    return torch.stack(along, dim=1).clamp(min=1.0)


def _widths(region: Tensor) -> Tensor:
    """Region, bool [B, D, H, W] -> width in voxels along 3 axes, 6 diagonals of planes and 4 of space [B, 13].

    That of a single voxel is 1 along every direction; that of an empty region is 1 too.
    """
    inside = region.float()  # the largest of floats is found ten times as fast as whether any of bools is true
    steps = [torch.arange(side, device=region.device, dtype=torch.float32) for side in region.shape[1:]]
    planes = [inside.amax(dim=axis) > 0.0 for axis in (1, 2, 3)]  # whether any voxel along the axis is inside
    occupied = planes[2]
    found = [_span(steps[0], steps[0], occupied.any(dim=2)), _span(steps[1], steps[1], occupied.any(dim=1))]
    found.append(_span(steps[2], steps[2], planes[0].any(dim=1)))
    for first, second in ((0, 1), (0, 2), (1, 2)):
        for sign in (1.0, -1.0):
            place = steps[first][:, None] + sign * steps[second]
            found.append(_span(place, place, planes[3 - first - second]) / math.sqrt(2.0))
    last = region.shape[3] - 1.0
    highest = (inside * (steps[2] + 1.0)).amax(dim=3) - 1.0  # where occupied
    lowest = last + 1.0 - (inside * (last + 1.0 - steps[2])).amax(dim=3)
    for sign, along in product((1.0, -1.0), (1.0, -1.0)):
        place = steps[0][:, None] + sign * steps[1]
        high, low = (highest, lowest) if along > 0 else (-lowest, -highest)
        found.append(_span(place + high, place + low, occupied) / math.sqrt(3.0))
    return torch.stack(found, dim=1) + 1.0


def _span(high: Tensor, low: Tensor, occupied: Tensor) -> Tensor:
    """Return the largest of ``high`` minus the smallest of ``low`` where ``occupied`` [B, ...], 0 if nowhere: [B]."""
    top = torch.where(occupied, high, -math.inf).flatten(1).amax(dim=1)
    bottom = torch.where(occupied, low, math.inf).flatten(1).amin(dim=1)
    return torch.where(occupied.flatten(1).any(dim=1), top - bottom, torch.zeros_like(top))
