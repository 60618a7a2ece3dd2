"""Reconstructions and traversals: every slice on the sheet is the slice of the array that it should be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from looking import Paper, words
from matplotlib.collections import LineCollection
from numpy.typing import NDArray
from sheets import AXIAL, CORONAL, SAGITTAL, SHAPE, by_place, check_grey, seen

from menvae.pictures.drawing import volumes
from menvae.presentation.figures import DPI


def head() -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint8]]:
    """Return two channels of noise in a box of zeros, a reconstruction, and the mask of a box."""
    random = np.random.default_rng(3)
    inputs = np.zeros((2, *SHAPE), np.float32)
    inputs[:, 2:8, 3:9, 4:11] = random.normal(size=(2, 6, 6, 7))
    mask = np.zeros(SHAPE, np.uint8)
    mask[3:6, 4:8, 5:7] = 2
    return inputs, random.normal(size=(2, *SHAPE)).astype(np.float32), mask


def test_reconstruction(tmp_path: Path) -> None:
    inputs, reconstruction, mask = head()
    figure = volumes.draw_reconstruction(inputs, reconstruction, mask, ("t1c", "t1n"), "a subject")
    assert words(figure)[0] == "a subject"
    assert "outline: tumour mask" in words(figure)[1]
    sheet = figure.axes[0]
    rows = by_place(sheet)
    assert [len(row) for row in rows] == [9, 9], "three planes of three slices for each modality"
    bound = np.percentile(np.abs(reconstruction - inputs), 99.5)
    for channel, row in enumerate(rows):
        signal = inputs[channel][inputs[channel] != 0]
        for plane, (axis, index) in enumerate(((AXIAL, 6), (CORONAL, 6), (SAGITTAL, 4))):
            original, rebuilt = (seen(volume[channel], axis, index) for volume in (inputs, reconstruction))
            first, second, third = row[3 * plane : 3 * plane + 3]
            for image, values in ((first, original), (second, rebuilt)):
                pixels = np.ma.masked_array(image.get_array())
                np.testing.assert_array_equal(np.ma.getmaskarray(pixels), original == 0)
                np.testing.assert_array_equal(pixels[original != 0], values[original != 0])
                assert image.get_clim() == pytest.approx(np.percentile(signal, (0.5, 99.8)), rel=1e-5)
            np.testing.assert_allclose(third.get_array(), rebuilt - original)
            assert third.get_clim() == pytest.approx((-bound, bound), rel=1e-5)
            width, height = first.get_extent()[1] - first.get_extent()[0], first.get_extent()[2] - first.get_extent()[3]
            assert (width, height) == pytest.approx((original.shape[1], original.shape[0])), "1 mm voxels"
    assert {"axial, slice 7 of 14", "coronal, slice 7 of 12", "sagittal, slice 5 of 10"} <= set(words(sheet))
    assert [words(sheet).count(name) for name in ("input", "reconstruction", "difference", "t1c", "t1n")] == [
        *(3, 3, 3, 1, 1),
    ]
    outlines = [found for found in sheet.collections if isinstance(found, LineCollection)]
    assert [len(found.get_segments()) for found in outlines] == [2 * (3 + 4)] * 2 + [2 * (3 + 2)] * 2 + [
        2 * (4 + 2)
    ] * 2
    assert len(figure.axes) == 1 + 2 + 1, "a scale for each modality and one for the differences"
    paper = Paper(figure, tmp_path)
    check_grey(paper, rows[0][0], 5, 4, seen(inputs[0], AXIAL, 6)[5, 4])
    check_grey(paper, rows[1][4], 6, 5, seen(reconstruction[1], CORONAL, 6)[6, 5])
    check_grey(paper, rows[0][0], 0, 0, -np.inf)
    for bar in figure.axes[1:3]:
        paper.check_bar(bar, "gray", "both")
    paper.check_bar(figure.axes[3], "RdBu_r", "both")
    assert figure.axes[3].get_xlabel() == "reconstruction − input (SD)"
    for bar, row in zip(figure.axes[1:], (rows[0][0], rows[1][0]), strict=False):
        assert bar.get_ylim() == pytest.approx(row.get_clim())


def test_the_rendered_page_shows_the_patients_right_on_the_left(tmp_path: Path) -> None:
    inputs = np.full((1, 16, 16, 16), -1.0, dtype=np.float32)
    inputs[0, 12:, 5:11, 5:11] = 5.0  # right side, bright in the input only
    paper = Paper(volumes.draw_reconstruction(inputs, np.full_like(inputs, -1.0), None, ("t1c",), "t"), tmp_path)
    lower = paper.pixels[..., 2] - paper.pixels[..., 0] > 0.25  # less than the input: blue in the differences
    lower[int(lower.shape[0] * 0.72) :] = False  # the colour bar
    columns = np.flatnonzero(lower.any(axis=0))
    # The first group of columns is the axial difference: it lies in the left half of its panel (panels 3 of 9).
    first_group = columns[columns < 0.45 * lower.shape[1]]
    left, panel = 0.5 * DPI, 11.0 / 9 * DPI
    assert left + 2 * panel - 5 < first_group.mean() < left + 2.4 * panel


def test_without_a_mask_slices_go_through_the_middle_and_nothing_is_outlined() -> None:
    inputs, reconstruction, _ = head()
    figure = volumes.draw_reconstruction(inputs, reconstruction, None, ("t1c", "t1n"), "t")
    assert not figure.axes[0].collections
    assert {"axial, slice 8 of 14", "coronal, slice 7 of 12", "sagittal, slice 6 of 10"} <= set(words(figure.axes[0]))
    assert "outline" not in words(figure)[1]


def test_of_a_modality_that_is_missing_only_the_reconstruction_is_drawn() -> None:
    inputs = np.zeros((2, 8, 8, 8), np.float32)
    inputs[0, 2:6, 2:6, 2:6] = 1.0
    figure = volumes.draw_reconstruction(
        inputs, np.full_like(inputs, 50.0), None, ("t1c", "t1n"), "a", available=[True, False]
    )
    first, second = by_place(figure.axes[0])
    assert (len(first), len(second)) == (9, 3)
    assert words(figure.axes[0]).count("missing") == 3
    for image in second:
        pixels = np.ma.masked_array(image.get_array())
        assert pixels.count() == 16, "inside the head of the other modality"
        assert set(pixels.compressed()) == {50.0}


def test_traversals(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    decoded = random.normal(size=(2, 3, *SHAPE)).astype(np.float32)
    decoded[0, -1, :, :, 9] += 10.0  # where the ends of the first walk differ most
    decoded[1, 0, :, :, 2] -= 10.0
    figure = volumes.draw_traversals(decoded, ("vol", "loc"), (-2.0, 0.0, 2.0), "t1c", "Walks")
    assert words(figure)[0] == "Walks"
    assert words(figure)[1].startswith("t1c, axial slice")
    sheet = figure.axes[0]
    rows = by_place(sheet)
    limit = np.percentile(decoded, (0.5, 99.9))
    change = np.abs(decoded[:, -1] - decoded[:, 0])
    for row, (images, index) in enumerate(zip(rows, (9, 2), strict=True)):
        assert len(images) == 4
        for image, volume in zip(images, decoded[row], strict=False):
            np.testing.assert_array_equal(image.get_array(), seen(volume, AXIAL, index))
            assert image.get_clim() == pytest.approx(limit, rel=1e-5)
        np.testing.assert_array_equal(images[-1].get_array(), seen(change[row], AXIAL, index))
        assert images[-1].get_clim() == pytest.approx((0.0, np.percentile(change, 99.9)), rel=1e-5)
    found = words(sheet)
    assert [word for word in found if word.endswith(("SD", "first|")) or word == "0"] == [
        *("−2 SD", "0", "+2 SD"),
        "|last − first|",
    ]
    assert {"vol", "loc", "slice 10 of 14", "slice 3 of 14"} <= set(found)
    paper = Paper(figure, tmp_path)
    check_grey(paper, rows[0][2], 7, 2, seen(decoded[0, 2], AXIAL, 9)[7, 2])
    check_grey(paper, rows[1][0], 3, 4, seen(decoded[1, 0], AXIAL, 2)[3, 4])
    check_grey(paper, rows[1][1], 3, 4, seen(decoded[1, 1], AXIAL, 2)[3, 4])
    paper.check_bar(figure.axes[1], "gray", "both")
    paper.check_bar(figure.axes[2], "magma", "max")
    assert [bar.get_xlim() for bar in figure.axes[1:]] == [image.get_clim() for image in (rows[0][0], rows[0][-1])]


@pytest.mark.parametrize(("strength", "is_flat"), [(1e-3, True), (1.0, False)])
def test_the_changes_of_a_decoder_that_ignores_z_are_black(strength: float, is_flat: bool) -> None:
    random = np.random.default_rng(6)
    average = random.uniform(-1.0, 4.0, size=SHAPE)
    walks = average + strength * np.linspace(-1.0, 1.0, 5)[:, None, None, None] * random.normal(size=(1, 1, *SHAPE))
    figure = volumes.draw_traversals(walks, ("vol",), (-2.0, -1.0, 0.0, 1.0, 2.0), "t1c", "Walks")
    (row,) = by_place(figure.axes[0])
    brightness = row[-1].to_rgba(row[-1].get_array())[..., :3].max()
    assert brightness < 0.1 if is_flat else brightness > 0.9
    assert figure.axes[2].get_xlim() == row[-1].get_clim()
    if is_flat:
        assert row[-1].get_clim() == pytest.approx((0.0, 0.1 * np.ptp(np.percentile(walks, (0.5, 99.9)))), rel=1e-5)


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (1.0, 1.0, 2.0), (3.0, 1.0, 1.0)])
def test_slices_keep_their_proportions_in_millimetres(spacing_mm: tuple[float, float, float]) -> None:
    inputs, reconstruction, _ = head()
    figure = volumes.draw_reconstruction(inputs, reconstruction, None, ("t1c", "t1n"), "t", spacing_mm)
    d, h, w = (side * step for side, step in zip(SHAPE, spacing_mm, strict=True))
    sheet = figure.axes[0]
    corners = sheet.transData.transform([(0.0, 0.0), (1.0, 1.0)])
    assert abs(np.ptp(corners[:, 0])) == pytest.approx(abs(np.ptp(corners[:, 1]))), "a mm is as long across as up"
    sides = [np.abs(np.diff(np.reshape(image.get_extent(), (2, 2)), axis=1))[:, 0] for image in sheet.images]
    assert sorted({tuple(np.round(side, 3)) for side in sides}) == sorted({(d, h), (d, w), (h, w)})


def test_shapes_that_do_not_belong_together_are_refused() -> None:
    inputs, reconstruction, mask = head()
    with pytest.raises(ValueError, match=r"reconstruction has shape \[1, 10, 12, 14\], expected \[2, 10, 12, 14\]"):
        volumes.draw_reconstruction(inputs, reconstruction[:1], mask, ("a", "b"), "t")
    with pytest.raises(ValueError, match="mask has shape"):
        volumes.draw_reconstruction(inputs, inputs, mask[None], ("a", "b"), "t")
    with pytest.raises(ValueError, match="modalities has shape"):
        volumes.draw_reconstruction(inputs, inputs, mask, ("a",), "t")
    with pytest.raises(ValueError, match="must have 4 axes"):
        volumes.draw_reconstruction(inputs[0], inputs[0], mask, ("a",), "t")
    with pytest.raises(ValueError, match="must have 5 axes"):
        volumes.draw_traversals(inputs, ("vol",), (0.0,), "t1c", "t")
    with pytest.raises(ValueError, match="row_labels has shape"):
        volumes.draw_traversals(inputs[None], ("a", "b"), (0.0, 1.0), "t1c", "t")
    with pytest.raises(ValueError, match="steps has shape"):
        volumes.draw_traversals(inputs[None], ("a",), (0.0,), "t1c", "t")
