"""What tests of slices look at: the images of a sheet, and the grey of their pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from looking import Paper
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from numpy.typing import NDArray

SHAPE = (10, 12, 14)
AXIAL, CORONAL, SAGITTAL = 2, 1, 0


def seen(volume: NDArray[Any], axis: int, index: int) -> NDArray[Any]:
    """Return a slice as radiologists see it, written another way than in menvae: rows and columns run backwards."""
    cut = np.moveaxis(volume, axis, 0)[index]
    return np.rot90(cut.transpose(), 2)


def by_place(axes: Axes) -> list[list[AxesImage]]:
    """Return the images of a sheet by row, each from left to right."""
    rows: dict[float, list[AxesImage]] = {}
    for image in axes.images:
        _, _, bottom, top = image.get_extent()
        rows.setdefault(round((bottom + top) / 2, 3), []).append(image)
    return [sorted(rows[middle], key=lambda image: image.get_extent()[0]) for middle in sorted(rows)]


def check_grey(paper: Paper, image: AxesImage, row: int, column: int, value: float) -> None:
    """Check that a pixel of a slice is as bright on paper as its value is high in the window of the image."""
    left, right, bottom, top = image.get_extent()
    rows, columns = np.shape(image.get_array())
    low, high = image.get_clim()
    assert image.axes is not None
    place = (left + (column + 0.5) / columns * (right - left), top + (row + 0.5) / rows * (bottom - top))
    paper.check(image.axes, *place, [float(np.clip((value - low) / (high - low), 0.0, 1.0))] * 3)
