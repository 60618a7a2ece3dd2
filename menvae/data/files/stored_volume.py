"""A volume as stored in its file, independent of the format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from nibabel.orientations import apply_orientation, io_orientation
from numpy.typing import NDArray

_LABEL_TOLERANCE = 1e-3


@dataclass(frozen=True)
class StoredVolume:
    """A volume as stored in its file.

    Attributes:
        voxels: stored values, [i, j, k] or with further axes; the memory may be read-only.
        affine: [4, 4], voxel -> mm in RAS.
        slope: value = slope * stored + intercept.
        intercept: see ``slope``.
        is_oriented: whether the file declares its orientation.
        unit: declared unit of lengths, such as ``metres``, if it is not mm; ``affine`` is in mm nevertheless.
        second_affine: [4, 4], another affine that the file declares, which other programs may use; None if there is
            none.
    """

    voxels: NDArray[Any]
    affine: NDArray[np.float64]
    slope: float = 1.0
    intercept: float = 0.0
    is_oriented: bool = True
    unit: str = ""
    second_affine: NDArray[np.float64] | None = None

    @property
    def values(self) -> NDArray[Any]:
        """Voxel values: the stored ones, or float64 if slope and intercept rescale them."""
        if self.slope == 1.0 and self.intercept == 0.0:
            return self.voxels
        return self.voxels.astype(np.float64) * self.slope + self.intercept

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along R, A, S."""
        sides = np.linalg.norm(self.affine[:3, :3], axis=0)
        axes = ras_axes(self.affine)[:, 0].astype(int)
        along = dict(zip(axes.tolist(), sides.tolist(), strict=True))
        return along[0], along[1], along[2]

    def values_ras(self) -> NDArray[Any]:
        """Return the values [D, H, W] with axes reoriented to R, A, S; a view if they are not rescaled."""
        values = self.values
        return apply_orientation(values.reshape(values.shape[:3]), ras_axes(self.affine))  # type: ignore[no-untyped-call, no-any-return, unused-ignore]


def whole_labels(values: NDArray[Any]) -> NDArray[Any]:
    """Return values of a mask, where those within 0.001 of an integer are that integer.

    A scale factor or float32 rounds labels: nibabel, for example, stores label 2 such that it reads as 1.9999999995.

    >>> whole_labels(np.array([1e-9, 1.9999999995, 2.25])).tolist()
    [0.0, 2.0, 2.25]
    """
    if values.dtype.kind != "f":
        return values
    nearest = np.rint(values)
    with np.errstate(invalid="ignore"):  # infinity - infinity
        return np.where(np.abs(values - nearest) <= _LABEL_TOLERANCE, nearest, values)


def ras_axes(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return nibabel's orientation [3, 2] of a volume: for each axis, the index of R, A, S and the sign."""
    axes: NDArray[np.float64] = io_orientation(affine)  # type: ignore[no-untyped-call, unused-ignore]
    return axes
