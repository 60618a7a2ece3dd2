"""Placement of the training box, what it keeps, and its findings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from late import Late
from numpy.typing import NDArray

from menvae.data.geometry.box import BoxReport, BoxStrategy, cut_out, judge_box, place_box

monai_transforms = Late("monai.transforms")

Shape = tuple[int, int, int]

shapes = st.tuples(*[st.integers(1, 40)] * 3)


def filled(shape: Shape) -> NDArray[np.int16]:
    """Every voxel has a number of its own, none is 0."""
    return np.arange(1, 1 + np.prod(shape), dtype=np.int16).reshape(shape)


@given(shapes, shapes)
@settings(max_examples=200, deadline=None)
def test_the_middle_of_the_image_is_that_of_monai(old: Shape, size: Shape) -> None:
    if np.prod(old) > 32000:
        return
    volume = filled(old)
    found = cut_out(volume, place_box("center", volume, size), size)
    np.testing.assert_array_equal(found, np.asarray(monai_transforms.ResizeWithPadOrCrop(size)(volume[None]))[0])
    assert (found.dtype, found.flags.c_contiguous) == (np.int16, True)


@pytest.mark.parametrize(
    ("old", "size", "start"),
    [(8, 4, 2), (9, 4, 2), (8, 5, 2), (9, 5, 2), (4, 8, -2), (5, 8, -1), (4, 9, -2), (7, 7, 0)],
)
def test_the_middle_by_hand(old: int, size: int, start: int) -> None:
    assert place_box("center", np.ones((old,) * 3), (size,) * 3) == (start,) * 3


boxes = st.tuples(*[st.tuples(st.integers(0, 23), st.integers(1, 24))] * 3)


@given(boxes, shapes)
@settings(max_examples=200, deadline=None)
def test_a_brain_that_fits_is_whole_wherever_it_lies(corners: tuple[tuple[int, int], ...], size: Shape) -> None:
    brain = np.zeros((24, 24, 24), np.int16)
    part = tuple(slice(first, min(first + length, 24)) for first, length in corners)
    brain[part] = -5  # stored values may be negative
    found = cut_out(brain, place_box("brain", brain, size), size)
    lengths = [min(span.stop - span.start, side) for span, side in zip(part, size, strict=True)]
    assert np.count_nonzero(found) == np.prod(lengths), "as much as the box can hold of it along each axis"
    for axis in range(3):
        in_axis = np.flatnonzero(found.any(axis=tuple({0, 1, 2} - {axis})))
        assert abs(in_axis[0] - (size[axis] - 1 - in_axis[-1])) <= 1, "in the middle"


def test_without_a_brain_the_box_is_put_on_the_middle_of_the_image() -> None:
    nothing = np.zeros((9, 8, 7), np.int16)
    assert place_box("brain", nothing, (4, 4, 4)) == place_box("center", nothing, (4, 4, 4))


@given(shapes)
def test_the_whole_image_is_kept_where_it_fills_the_box(shape: Shape) -> None:
    volume = np.ones(shape, np.uint8)
    assert place_box("resize", volume, shape) == (0, 0, 0)
    np.testing.assert_array_equal(cut_out(volume, (0, 0, 0), shape), volume)


@pytest.mark.parametrize("start", [(-4, 0, 0), (0, 6, 0), (-100, -100, -100), (0, 0, 50)])
def test_a_box_wholly_outside_is_empty(start: Shape) -> None:
    assert not cut_out(filled((4, 6, 8)), start, (4, 4, 4)).any()


def test_a_box_that_reaches_beyond_the_image_by_hand() -> None:
    volume = np.asfortranarray(filled((3, 3, 40)))
    found = cut_out(volume, (-1, 1, -2), (3, 3, 44))
    expected = np.zeros((3, 3, 44), np.int16)
    expected[1:, :2, 2:42] = volume[:2, 1:]
    np.testing.assert_array_equal(found, expected)


def test_a_box_is_a_copy() -> None:
    volume = filled((4, 4, 4))
    cut_out(volume, (0, 0, 0), (4, 4, 4))[:] = 0
    assert volume.all()


GOOD = BoxReport(
    native_volume_mm3=1000.0, resampled_volume_mm3=1050.0, volume_mm3=1050.0, tumour_kept=1.0, brain_kept=1.0
)
REFUSE, WARN = {"tumour": 0.5, "brain": 0.4}, {"tumour": 0.98, "brain": 0.9}


def judged(
    refuse: dict[str, float] | None = None,
    warn: dict[str, float] | None = None,
    strategy: BoxStrategy = "center",
    **report: float,
) -> list[str]:
    """What is said, each with the sort of it before."""
    found = judge_box("a", replace(GOOD, **report), strategy, refuse or REFUSE, warn or WARN)  # type: ignore[arg-type]
    return [f"{'fault' if finding.is_fault else 'note'}: {finding}" for finding in found]


def test_nothing_is_said_of_a_box_that_holds_all() -> None:
    assert judged() == []


@pytest.mark.parametrize(
    ("content", "kept", "kind"),
    [
        ("tumour", 0.98, None),
        ("tumour", 0.9799, "note"),
        ("tumour", 0.5, "note"),
        ("tumour", 0.4999, "fault"),
        ("tumour", 0.0, "fault"),
        ("brain", 0.9, None),
        ("brain", 0.8999, "note"),
        ("brain", 0.4, "note"),
        ("brain", 0.3999, "fault"),
    ],
)
def test_a_share_below_a_threshold_is_told(content: str, kept: float, kind: str | None) -> None:
    told = judged(**{f"{content}_kept": kept})
    if kind is None:
        assert told == []
        return
    (line,) = told
    assert line.startswith(f"{kind}: subject 'a': the training box holds {100 * kept:.3g} % of the {content}: enlarge ")
    assert ("or lower data.refuse_below" in line) == (kind == "fault")


def test_a_fault_names_the_key_that_would_allow_it() -> None:
    assert judged(tumour_kept=0.25) == [
        "fault: subject 'a': the training box holds 25 % of the tumour: enlarge data.roi_size or data.spacing_mm, "
        "or try data.box=brain, or lower data.refuse_below.tumour=0.5"
    ]


def test_a_box_on_the_brain_is_not_told_to_go_there() -> None:
    assert judged(strategy="brain", tumour_kept=0.75) == [
        "note: subject 'a': the training box holds 75 % of the tumour: enlarge data.roi_size or data.spacing_mm"
    ]


def test_a_tumour_that_resampling_lost_wants_smaller_voxels() -> None:
    told = judged(tumour_kept=0.0, resampled_volume_mm3=0.0)
    assert told[0] == (
        "fault: subject 'a': the training box holds 0 % of the tumour: the voxels are too large, use a smaller "
        "data.spacing_mm or a larger data.roi_size, or lower data.refuse_below.tumour=0.5"
    )


def test_a_threshold_that_is_not_given_asks_for_nothing() -> None:
    assert judged(refuse={"tumour": 0.1}, warn={"tumour": 0.2}, brain_kept=0.0) == []


def test_what_is_refused_is_no_note_where_warning_asks_for_less() -> None:
    (line,) = judged(refuse={"tumour": 0.9}, warn={"tumour": 0.1}, tumour_kept=0.5)
    assert line.startswith("fault")


@pytest.mark.parametrize(("volume_mm3", "is_small"), [(99.9, True), (100.0, False), (0.0, True)])
def test_a_tumour_of_less_than_100_mm3_is_noted(volume_mm3: float, is_small: bool) -> None:
    told = judged(native_volume_mm3=volume_mm3, resampled_volume_mm3=volume_mm3)
    words = (
        f"note: subject 'a': the mask has a tumour of {volume_mm3:.3g} mm^3, less than 100: check that it is a tumour"
    )
    assert told == ([words] if is_small else [])


@pytest.mark.parametrize(("resampled_mm3", "is_told"), [(1099.0, False), (1101.0, True), (901.0, False), (899.0, True)])
def test_a_volume_that_resampling_changes_by_a_tenth_is_noted(resampled_mm3: float, is_told: bool) -> None:
    told = judged(resampled_volume_mm3=resampled_mm3)
    words = f"note: subject 'a': the mask has 1000 mm^3 of tumour, but {resampled_mm3:g} mm^3 after resampling: use a "
    assert [line.startswith(words) for line in told] == ([True] if is_told else [])


@pytest.mark.parametrize("strategy", ["center", "brain"])
def test_stated_strategies_place_a_box_by_hand(strategy: BoxStrategy) -> None:
    image = np.zeros((10, 10, 10), np.int16)
    image[7:10, 0:2, 4:6] = 1
    assert place_box(strategy, image, (4, 4, 4)) == {"center": (3, 3, 3), "brain": (6, -1, 3)}[strategy]
