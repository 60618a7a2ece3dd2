"""Separate parts of a tumour."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_LARGEST_SIDE = 64


def second_part(tumour: NDArray[np.bool_]) -> float:
    """Return the share of a tumour in its second largest separate part; 0 if there is only one part.

    Voxels are connected through faces, edges and corners. A tumour longer than 64 voxels is reduced first: blocks of
    2 x 2 x 2 voxels become one, which holds tumour if any of them does, and a gap of less than two voxels may close.

    Args:
        tumour: [D, H, W], cut to its bounding box.

    >>> tumour = np.zeros((9, 5, 5), np.bool_)
    >>> tumour[:3], tumour[8] = True, True
    >>> second_part(tumour)
    0.25
    >>> second_part(tumour[:3])
    0.0
    """
    if not tumour.size:
        return 0.0
    from scipy.ndimage import label

    weights: NDArray[Any] = tumour
    while max(weights.shape) > _LARGEST_SIDE:
        weights = _halved(weights)
    parts, number = label(weights, structure=np.ones((3, 3, 3)))
    if number < 2:
        return 0.0
    sizes = np.sort(np.bincount(parts.ravel(), weights.ravel())[1:])
    return float(sizes[-2] / sizes.sum())


def _halved(weights: NDArray[Any]) -> NDArray[np.int32]:
    """Return the sums of blocks of 2 x 2 x 2 voxels."""
    for axis in range(3):
        starts = np.arange(0, weights.shape[axis], 2)
        weights = np.add.reduceat(weights, starts, axis=axis, dtype=np.int32)
    return weights
