"""Slices are turned the radiological way."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from menvae.presentation import planes


@pytest.mark.parametrize("plane", planes.PLANES, ids=lambda plane: plane.name)
@pytest.mark.parametrize(("direction", "axis"), [("R", 0), ("A", 1), ("S", 2)])
def test_a_bright_voxel_lands_beside_its_letter(plane: planes.Plane, direction: str, axis: int) -> None:
    # RAS+: the last index along an axis is the patient's right, front or top.
    shape = (7, 9, 5)
    position = [size // 2 for size in shape]
    if axis != plane.axis:
        position[axis] = shape[axis] - 1
    volume = np.zeros(shape)
    volume[tuple(position)] = 1.0
    shown = planes.displayed_slice(volume, plane, position[plane.axis])
    upward, across = plane.shown
    assert shown.shape == (shape[upward], shape[across])
    row, column = np.argwhere(shown)[0]
    middle = (shown.shape[0] // 2, shown.shape[1] // 2)
    expected = {
        plane.letters[0]: (middle[0], 0),
        plane.letters[1]: (middle[0], shown.shape[1] - 1),
        plane.letters[2]: (0, middle[1]),
        plane.letters[3]: (shown.shape[0] - 1, middle[1]),
    }
    assert (row, column) == (expected[direction] if axis != plane.axis else middle)


def test_letters_follow_radiological_convention() -> None:
    assert planes.AXIAL.letters == ("R", "L", "A", "P")
    assert planes.CORONAL.letters == ("R", "L", "S", "I")
    assert planes.SAGITTAL.letters == ("A", "P", "S", "I")


def test_slices_go_through_the_largest_cross_section_of_the_tumour() -> None:
    mask = np.zeros((10, 12, 14), dtype=np.uint8)
    mask[2:5, 3:4, 6:9] = 2
    mask[3, 3:9, 7] = 3
    assert [planes.slice_index(mask, plane, mask.shape) for plane in planes.PLANES] == [7, 3, 3]


@pytest.mark.parametrize("mask", [None, np.zeros((10, 12, 14), dtype=np.uint8)], ids=["none", "empty"])
def test_without_a_tumour_the_middle_is_shown(mask: NDArray[np.uint8] | None) -> None:
    assert [planes.slice_index(mask, plane, (10, 12, 14)) for plane in planes.PLANES] == [7, 6, 5]


def test_outline_runs_around_every_pixel_edge_of_the_mask() -> None:
    mask = np.zeros((4, 5), dtype=np.uint8)
    mask[1:3, 2:5] = 1  # 2 x 3 pixels, touching the right border
    segments = planes.mask_outline(mask)
    assert len(segments) == 2 * (2 + 3)
    assert segments[..., 0].min() == 2
    assert segments[..., 0].max() == 5
    assert segments[..., 1].min() == 1
    assert segments[..., 1].max() == 3
    assert np.all(np.abs(segments[:, 1] - segments[:, 0]).sum(axis=1) == 1)
    assert planes.mask_outline(np.zeros((3, 3))).shape == (0, 2, 2)
