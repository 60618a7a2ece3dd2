"""Slices are true to millimetres, turned the radiological way, and every region has its outline."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cohorts import subject
from numpy.typing import NDArray
from PIL import Image, ImageColor

from menvae.data.cache.prepare import prepare
from menvae.data.sources.phantom import PhantomSource
from menvae.preparation.thumbnails import REGION_COLOURS, centre_of, draw_planes, draw_thumbnails

MARGIN = 14
LONGEST = 220


def boxes(spacing_mm: tuple[float, float, float], shape: tuple[int, int, int]) -> list[tuple[int, int]]:
    """Return width and height in pixels that the three slices should have."""
    d, h, w = (side * step for side, step in zip(shape, spacing_mm, strict=True))
    scale = LONGEST / max(d, h, w)
    return [(round(a * scale), round(b * scale)) for a, b in ((d, h), (d, w), (h, w))]


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (1.0, 2.0, 4.0), (5.0, 1.0, 1.0)])
def test_aspect_is_that_of_the_patient(spacing_mm: tuple[float, float, float]) -> None:
    shape = (20, 24, 16)
    picture = draw_planes(np.ones(shape, np.int16), np.zeros(shape, np.uint8), spacing_mm, (10, 12, 8))
    sizes = boxes(spacing_mm, shape)
    assert picture.width == sum(width + 2 * MARGIN for width, _ in sizes)
    assert picture.height == max(height for _, height in sizes) + 2 * MARGIN
    left = 0
    for width, height in sizes:
        part = np.asarray(picture.convert("L"))[:, left + MARGIN : left + MARGIN + width]
        rows = np.flatnonzero((part > 10).all(axis=1))
        assert len(rows) == height, "the slice fills its place, and nothing else"
        left += width + 2 * MARGIN


def panels(picture: Image.Image, shape: tuple[int, int, int]) -> list[NDArray[np.uint8]]:
    """Return the three slices [rows, columns, 3] without their margins, for voxels of 1 mm."""
    pixels, left, found = np.asarray(picture), 0, []
    for width, height in boxes((1.0, 1.0, 1.0), shape):
        top = (picture.height - height) // 2
        found.append(pixels[top : top + height, left + MARGIN : left + MARGIN + width])
        left += width + 2 * MARGIN
    return found


def test_right_front_and_top_are_where_the_letters_say() -> None:
    shape = (20, 20, 20)
    volume = np.full(shape, 1.0, np.float32)
    volume[-4:] = 9.0  # the patient's right
    axial, coronal, _ = panels(draw_planes(volume, np.zeros(shape, np.uint8), (1, 1, 1), (10, 10, 10)), shape)
    for slice_ in (axial, coronal):
        assert slice_[:, :20].mean() > 2 * slice_[:, -20:].mean(), "R is on the left"
    volume = np.full(shape, 1.0, np.float32)
    volume[:, -4:] = 9.0  # the front
    axial, _, sagittal = panels(draw_planes(volume, np.zeros(shape, np.uint8), (1, 1, 1), (10, 10, 10)), shape)
    assert axial[:20].mean() > 2 * axial[-20:].mean(), "A is at the top of an axial slice"
    assert sagittal[:, :20].mean() > 2 * sagittal[:, -20:].mean(), "and on the left of a sagittal one"


def test_every_region_has_its_colour_around_its_voxels() -> None:
    shape = (22, 22, 22)
    mask = np.zeros(shape, np.uint8)
    mask[4:18, 4:18, 4:18], mask[7:15, 7:15, 7:15], mask[9:13, 9:13, 9:13] = 2, 3, 1
    picture = draw_planes(np.full(shape, 5, np.int16), mask, (1.0, 1.0, 1.0), (10, 10, 10))
    for slice_ in panels(picture, shape):
        for region, outermost in (("ncr", 9), ("et", 7), ("ed", 4)):
            colour = np.array(ImageColor.getrgb(REGION_COLOURS[region]))
            rows, columns = np.nonzero((slice_ == colour).all(axis=-1))
            assert (rows.min(), columns.min()) == (outermost * 10, outermost * 10), region
            assert (rows.max(), columns.max()) == ((22 - outermost) * 10 - 1, (22 - outermost) * 10 - 1), region


def test_outline_at_the_border_of_the_box_is_seen() -> None:
    shape = (22, 22, 22)
    mask = np.full(shape, 3, np.uint8)
    for slice_ in panels(draw_planes(np.ones(shape), mask, (1.0, 1.0, 1.0), (10, 10, 10)), shape):
        colour = np.array(ImageColor.getrgb(REGION_COLOURS["et"]))
        is_line = (slice_ == colour).all(axis=-1)
        assert is_line[0].all()
        assert is_line[-1].all()
        assert is_line[:, 0].all()
        assert is_line[:, -1].all()


def test_slices_go_through_the_centroid() -> None:
    assert centre_of(subject("a", loc_x=0.0, loc_y=0.49, loc_z=1.0), (10, 10, 10)) == (0, 4, 9)
    assert centre_of(subject("a", loc_x=None, loc_y=None, loc_z=None), (10, 20, 30)) == (5, 10, 15)


@pytest.mark.parametrize(("value", "grey"), [(0, 0), (7, 25), (-7, 25)], ids=["background", "constant", "negative"])
def test_constant_and_empty_volumes_are_drawn(value: int, grey: int) -> None:
    picture = draw_planes(np.full((8, 8, 8), value, np.int16), np.zeros((8, 8, 8), np.uint8), (1, 1, 1), (4, 4, 4))
    assert picture.mode == "RGB"
    for left in (MARGIN, 3 * MARGIN + LONGEST, 5 * MARGIN + 2 * LONGEST):
        place = np.asarray(picture)[MARGIN : MARGIN + LONGEST, left : left + LONGEST]
        assert (place == grey).all(), "what is not background is not black"


def test_grey_values_are_those_of_the_slice_between_two_percentiles() -> None:
    shape = (22, 22, 22)
    volume = np.arange(22**3, dtype=np.int16).reshape(shape) + 1
    found = panels(draw_planes(volume, np.zeros(shape, np.uint8), (1, 1, 1), (10, 11, 12)), shape)
    low, high = np.percentile(volume, (0.5, 99.5))
    shown = 25.0 + 175.0 * np.clip((volume - low) / (high - low), 0.0, 1.0)
    for slice_, cut in zip(found, (shown[:, :, 12], shown[:, 11], shown[10]), strict=True):
        np.testing.assert_array_equal(slice_[..., 0], slice_[..., 2])
        middles = slice_[5::10, 5::10, 0].astype(float)  # every voxel is 10 pixels wide
        np.testing.assert_allclose(middles[1:-1, 1:-1], cut.T[::-1, ::-1][1:-1, 1:-1], atol=6.0)


def test_a_thumbnail_is_a_small_jpeg(prepared_cache: Path) -> None:
    source = PhantomSource(num_subjects=3, roi_size=(16, 16, 16), spacing_mm=(10.0, 10.0, 10.0))
    subjects = prepare(source, prepared_cache).subjects
    found = draw_thumbnails(subjects)
    assert list(found) == [one.subject_id for one in subjects]
    for thumbnail in found.values():
        kind, _, content = thumbnail.source.partition(",")
        assert kind == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
            assert picture.size == (thumbnail.width, thumbnail.height)
            pixels = np.asarray(picture.convert("RGB"), dtype=int)
            assert (pixels.max(axis=2) > 20).mean() > 0.15, "a head"
            assert (np.ptp(pixels, axis=2) > 80).sum() > 100, "an outline in colour"
        assert len(content) < 30_000
    assert draw_thumbnails([replace(subjects[0], spacing_mm=(1.0, 1.0, 1.0))])
