"""Resampling between rectangular grids with the same axes: linear for images, nearest neighbour for masks.

The geometry follows MONAI: `to_spacing` its Spacing (the first voxels of both grids share their centre, and values
beyond the last voxel repeat it), `to_shape` its Resize (both grids share their outer edges). Neither smooths before
downsampling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Triple = tuple[float, float, float]
Kind = TypeVar("Kind", bound=np.generic)

_ROUNDING = 1e-10  # of the largest magnitude; rounded coordinates turn 0 into smaller values than this
_SAME_GRID_VOXELS = 0.01  # headers round: 1.0000001 mm is 1 mm if the last voxel moves by less than this


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

        A new voxel between zeros is exactly 0, because 0 is background.
        """
        if self.changes_nothing:
            return volume
        from scipy.ndimage import affine_transform  # imported only to resample

        found: NDArray[np.float32] = affine_transform(
            np.ascontiguousarray(volume),
            np.array(self.step),
            offset=self.first,
            output_shape=self.shape,
            output=np.float32,
            order=1,
            mode="nearest",  # repeats the border
        )
        found[np.abs(found) < _ROUNDING * max(float(volume.max()), -float(volume.min()))] = 0.0
        return found

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


def _axis(side: int, old_mm: float, new_mm: float) -> tuple[int, float]:
    """Return the new number of voxels along an axis and the step in old indices."""
    if (side - 1) * abs(new_mm / old_mm - 1.0) < _SAME_GRID_VOXELS:
        return side, 1.0
    return int(np.round((side - 1) * old_mm / new_mm + 1.0)), new_mm / old_mm
