"""The anatomical planes of a volume, and how their slices are displayed.

Volumes are [D, H, W] = (R, A, S): increasing an index moves towards the patient's right, front or top. Slices follow
the radiological convention: the patient's right is on the left of axial and coronal slices, the front on the left of
sagittal ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True)
class Plane:
    """One of the three anatomical planes.

    Attributes:
        name: name of the plane.
        axis: axis of [D, H, W] perpendicular to the plane.
        letters: directions at the left, right, top and bottom of the displayed slice.
    """

    name: str
    axis: int
    letters: tuple[str, str, str, str]

    @property
    def shown(self) -> tuple[int, int]:
        """The axes of [D, H, W] along which the rows and the columns of the displayed slice are indexed."""
        across, upward = (axis for axis in range(3) if axis != self.axis)
        return upward, across


AXIAL: Final = Plane("axial", 2, ("R", "L", "A", "P"))
CORONAL: Final = Plane("coronal", 1, ("R", "L", "S", "I"))
SAGITTAL: Final = Plane("sagittal", 0, ("A", "P", "S", "I"))
PLANES: Final = (AXIAL, CORONAL, SAGITTAL)


def displayed_slice(volume: NDArray[Scalar], plane: Plane, index: int) -> NDArray[Scalar]:
    """Extract a slice in display orientation: row 0 at the top, column 0 at the left.

    Args:
        volume: [D, H, W] = (R, A, S).
        plane: plane of the slice.
        index: position along ``plane.axis``.

    Returns:
        [rows, columns]: [H, D] for axial, [W, D] for coronal, [W, H] for sagittal, both reversed.

    >>> volume = np.zeros((4, 3, 2))
    >>> volume[3, 2, 1] = 1.0  # the patient's right, front, top
    >>> [tuple(map(int, np.argwhere(displayed_slice(volume, plane, (3, 2, 1)[plane.axis]))[0])) for plane in PLANES]
    [(0, 0), (0, 0), (0, 0)]
    """
    cut: NDArray[Scalar] = np.take(volume, index, axis=plane.axis).T[::-1, ::-1]
    return cut


def slice_index(mask: NDArray[Any] | None, plane: Plane, shape: tuple[int, ...]) -> int:
    """Return the index of the slice to show: the largest cross-section of the tumour, or the middle without a tumour.

    Args:
        mask: labels [D, H, W], 0 is background; or None.
        plane: plane of the slice.
        shape: (D, H, W) of the volume.
    """
    if mask is None or not np.any(mask):
        return shape[plane.axis] // 2
    areas = np.count_nonzero(mask, axis=plane.shown)
    # The middle one of all slices with the largest area, so that a cylinder is not cut at its end.
    largest = np.flatnonzero(areas == areas.max())
    return int(largest[len(largest) // 2])


def mask_outline(mask: NDArray[Any]) -> NDArray[np.float64]:
    """Return the pixel edges between mask and background.

    Args:
        mask: displayed slice [rows, columns], 0 is background.

    Returns:
        Line segments [K, 2, 2] of (x, y), in pixels from the top left corner.

    >>> mask_outline(np.ones((1, 1))).shape
    (4, 2, 2)
    """
    inside = np.pad(np.asarray(mask) != 0, 1)
    rows, columns = np.nonzero(inside[:, 1:] != inside[:, :-1])
    upright = np.stack([np.stack([columns, rows - 1], -1), np.stack([columns, rows], -1)], 1)
    rows, columns = np.nonzero(inside[1:, :] != inside[:-1, :])
    level = np.stack([np.stack([columns - 1, rows], -1), np.stack([columns, rows], -1)], 1)
    return np.concatenate([upright, level]).astype(np.float64)


def slice_size_mm(plane: Plane, shape: Sequence[int], spacing_mm: Sequence[float]) -> tuple[float, float]:
    """Return width and height in mm of a displayed slice."""
    upward, across = plane.shown
    return shape[across] * spacing_mm[across], shape[upward] * spacing_mm[upward]
