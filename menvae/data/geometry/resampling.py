"""Resampling between rectangular grids with the same axes: linear for images, nearest neighbour for masks.

The geometry follows MONAI: `to_spacing` its Spacing (the first voxels of both grids share their centre, and values
beyond the last voxel repeat it), `to_shape` its Resize (both grids share their outer edges). Neither smooths before
downsampling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from menvae.data.masks.features import bounding_box

Triple = tuple[float, float, float]
Kind = TypeVar("Kind", bound=np.generic)

_ROUNDING = 1e-10  # of the largest magnitude; rounded coordinates turn 0 into smaller values than this
_SAME_GRID_VOXELS = 0.01  # headers round: 1.0000001 mm is 1 mm if the last voxel moves by less than this


class _Span(NamedTuple):
    """New voxels along an axis: their indices, their old neighbours before and after, and the share of the latter."""

    new: NDArray[np.intp]
    low: NDArray[np.intp]
    high: NDArray[np.intp]
    share: NDArray[np.float64]


@dataclass(frozen=True)
class Resampling:
    """New voxel j along an axis lies at old index ``first + step * j``.

    Attributes:
        shape: new number of voxels along each axis.
        step: distance of new voxels, in old voxels.
        first: old index of the first new voxel.
        spacing_mm: size of the new voxels.
    """

    shape: tuple[int, int, int]
    step: Triple
    first: Triple
    spacing_mm: Triple

    @property
    def changes_nothing(self) -> bool:
        """Whether both grids are the same."""
        return self.step == (1.0, 1.0, 1.0) and self.first == (0.0, 0.0, 0.0)

    @classmethod
    def to_spacing(cls, shape: tuple[int, int, int], old_mm: Triple, new_mm: Triple) -> Resampling:
        """Return the resampling from one voxel size to another.

        >>> Resampling.to_spacing((240, 240, 155), (1.0, 1.0, 1.0), (1.25, 1.25, 1.25)).shape
        (192, 192, 124)
        """
        axes = [_axis(*axis) for axis in zip(shape, old_mm, new_mm, strict=True)]
        sides, steps = [side for side, _ in axes], [step for _, step in axes]
        return cls((sides[0], sides[1], sides[2]), (steps[0], steps[1], steps[2]), (0.0, 0.0, 0.0), new_mm)

    @classmethod
    def to_shape(cls, shape: tuple[int, int, int], old_mm: Triple, new: tuple[int, int, int]) -> Resampling:
        """Return the resampling to another number of voxels over the same extent.

        >>> Resampling.to_shape((240, 240, 155), (1.0, 1.0, 1.0), (120, 120, 155)).spacing_mm
        (2.0, 2.0, 1.0)
        """
        steps = [old / side for old, side in zip(shape, new, strict=True)]
        spacing = [step * side_mm for step, side_mm in zip(steps, old_mm, strict=True)]
        return cls(
            new,
            (steps[0], steps[1], steps[2]),
            (0.5 * steps[0] - 0.5, 0.5 * steps[1] - 0.5, 0.5 * steps[2] - 0.5),
            (spacing[0], spacing[1], spacing[2]),
        )

    def linear(self, volume: NDArray[Any]) -> NDArray[Any]:
        """Interpolate a volume [D, H, W]: float32, computed in float64; the volume itself if the grids are the same.

        A new voxel between zeros is exactly 0, because 0 is background. Only new voxels near non-zero ones are
        computed, axis by axis and plane by plane, which is several times faster than `scipy.ndimage.affine_transform`.
        """
        if self.changes_nothing:
            return volume
        order = sorted(range(3), key=lambda axis: -abs(volume.strides[axis]))  # planes are contiguous in memory
        found = np.zeros([self.shape[axis] for axis in order], np.float32)
        is_reversed = [volume.strides[axis] < 0 for axis in order]
        content = volume.transpose(order)[tuple(slice(None, None, -1 if one else 1) for one in is_reversed)]
        box = bounding_box(content if content.dtype.kind in "iu" else content != 0)
        if box is not None:
            spans = [self._span(*along, volume.shape) for along in zip(order, box, is_reversed, strict=True)]
            for number, low, high, share in zip(*spans[0], strict=True):
                plane = _between(content[low], content[high], share)
                plane = _between(plane[spans[1].low], plane[spans[1].high], spans[1].share[:, None])
                plane = _between(plane[:, spans[2].low], plane[:, spans[2].high], spans[2].share)
                found[number, spans[1].new[0] : spans[1].new[-1] + 1, spans[2].new[0] : spans[2].new[-1] + 1] = plane
            found[np.abs(found) < _ROUNDING * max(float(content.max()), -float(content.min()))] = 0.0
        return found.transpose(np.argsort(order))

    def _span(self, axis: int, inside: slice, is_reversed: bool, shape: tuple[int, ...]) -> _Span:
        """Return the new voxels along an axis that may be non-zero, with their old neighbours.

        Args:
            axis: the axis.
            inside: old voxels from the first to the last non-zero one, in the order of the memory.
            is_reversed: whether the memory runs against the axis.
            shape: old shape.
        """
        last = shape[axis] - 1
        first, stop = (last - inside.stop + 1, last - inside.start + 1) if is_reversed else (inside.start, inside.stop)
        places = np.clip(self.first[axis] + self.step[axis] * np.arange(self.shape[axis]), 0.0, last)
        (new,) = np.nonzero((places > first - 1) & (places < stop))
        low = np.floor(places[new]).astype(np.intp)
        high, share = np.minimum(low + 1, last), places[new] - low
        return _Span(new, last - low, last - high, share) if is_reversed else _Span(new, low, high, share)

    def nearest(self, volume: NDArray[Kind]) -> NDArray[Kind]:
        """Take the nearest voxel of a volume [D, H, W]; ties go to the even index.

        MONAI breaks ties by the rounding of its coordinates; otherwise both agree.
        """
        if self.changes_nothing:
            return volume
        places = [
            np.clip(np.rint(first + step * np.arange(side)), 0, old - 1).astype(np.intp)
            for first, step, side, old in zip(self.first, self.step, self.shape, volume.shape, strict=True)
        ]
        return volume[np.ix_(*places)]


def _between(low: NDArray[Any], high: NDArray[Any], share: Any) -> NDArray[np.float64]:
    """Return the values between two neighbours, in float64."""
    found: NDArray[np.float64] = np.multiply(low, 1.0 - share, dtype=np.float64)
    found += np.multiply(high, share, dtype=np.float64)
    return found


def _axis(side: int, old_mm: float, new_mm: float) -> tuple[int, float]:
    """Return the new number of voxels along an axis and the step in old indices."""
    if (side - 1) * abs(new_mm / old_mm - 1.0) < _SAME_GRID_VOXELS:
        return side, 1.0
    return int(np.round((side - 1) * old_mm / new_mm + 1.0)), new_mm / old_mm
