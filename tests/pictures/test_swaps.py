"""Swaps, walks and interventions: every slice is the one that it should be, and every number its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from looking import Paper, words
from matplotlib import colormaps
from matplotlib.patches import Rectangle
from sheets import AXIAL, CORONAL, SAGITTAL, SHAPE, by_place, check_grey, seen

from menvae.metrics.interventions import InterventionTable
from menvae.pictures.drawing.matrices import draw_interventions
from menvae.pictures.drawing.swaps import draw_swaps, draw_walks


def test_swaps(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    decoded = random.normal(size=(2, 4, *SHAPE)).astype(np.float32)
    decoded[:, 1:3] = decoded[:, :1]
    decoded[0, 1, :, :, 9] += 3.0  # weak, but all that this partition changes
    decoded[0, 2, 4:6, 4:6, 9] -= 0.5
    decoded[1, 2, :, :, 3] += 4.0  # the other partition changes nothing
    pairs = [("first", "second"), ("third", "fourth")]
    figure = draw_swaps(decoded, ("vol", "loc"), pairs, "t1c", "Swaps")
    assert words(figure)[0] == "Swaps"
    assert words(figure)[1].startswith("t1c, axial slice")
    sheet = figure.axes[0]
    rows = by_place(sheet)
    assert [len(row) for row in rows] == [4, 3, 4, 3], "a difference below each image but the first"
    changes = decoded - decoded[:, :1]
    limit, bound = np.percentile(decoded, (0.5, 99.9)), np.percentile(np.abs(changes), 99.9)
    for pair, index in enumerate((9, 3)):
        images, differences = rows[2 * pair], rows[2 * pair + 1]
        for image, volume in zip(images, decoded[pair], strict=True):
            np.testing.assert_array_equal(image.get_array(), seen(volume, AXIAL, index))
            assert image.get_clim() == pytest.approx(limit, rel=1e-5)
        for image, above, change in zip(differences, images[1:], changes[pair, 1:], strict=True):
            np.testing.assert_array_equal(image.get_array(), seen(change, AXIAL, index))
            assert image.get_clim() == pytest.approx((-bound, bound), rel=1e-5)
            assert image.get_extent()[0] == above.get_extent()[0]
    found = words(sheet)
    assert found[:4] == ["A", "A, vol of B", "A, loc of B", "B"]
    assert {"A: first", "B: second", "slice 10 of 14", "A: third", "B: fourth", "slice 4 of 14"} <= set(found)
    paper = Paper(figure, tmp_path)
    check_grey(paper, rows[0][2], 7, 2, seen(decoded[0, 2], AXIAL, 9)[7, 2])
    left, right, bottom, top = rows[1][0].get_extent()
    paper.check(sheet, (left + right) / 2, (bottom + top) / 2, colormaps["RdBu_r"]((3.0 + bound) / (2 * bound))[:3])
    paper.check_bar(figure.axes[1], "gray", "both")
    paper.check_bar(figure.axes[2], "RdBu_r", "both")
    for bar, image in zip(figure.axes[1:], (rows[0][0], rows[1][0]), strict=True):
        assert bar.get_xlim() == pytest.approx(image.get_clim())


def test_swaps_of_a_decoder_that_ignores_z_are_white() -> None:
    random = np.random.default_rng(1)
    decoded = np.repeat(random.uniform(-1.0, 4.0, size=(1, 1, *SHAPE)), 3, axis=1).astype(np.float32)
    decoded[0, 1] += 1e-3 * random.normal(size=SHAPE).astype(np.float32)
    figure = draw_swaps(decoded, ("vol",), [("a", "b")], "t1c", "Swaps")
    image = by_place(figure.axes[0])[1][0]
    assert np.abs(image.to_rgba(image.get_array())[..., :3] - colormaps["RdBu_r"](0.5)[:3]).max() < 0.02


def test_walks(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    decoded = random.normal(size=(2, 3, *SHAPE)).astype(np.float32)
    decoded[0, -1, 6, 3, 9] += 500.0  # where the ends of the first walk differ most
    figures = list(draw_walks(decoded, ("vol", "loc"), (-2.0, 0.0, 2.0), "t1c", "Walks"))
    assert len(figures) == 3
    for number, (figure, position) in enumerate(zip(figures, ("−2 SD", "0 SD", "+2 SD"), strict=True)):
        assert words(figure) == ["Walks: t1c", position]
        slider, sheet = figure.axes
        rows = by_place(sheet)
        assert [len(row) for row in rows] == [3, 3]
        for image, (axis, index) in zip(rows[0], ((AXIAL, 9), (CORONAL, 3), (SAGITTAL, 6)), strict=True):
            np.testing.assert_array_equal(image.get_array(), seen(decoded[0, number], axis, index))
            assert image.get_clim() == pytest.approx(np.percentile(decoded, (0.5, 99.9)), rel=1e-5)
        assert words(sheet) == ["vol", "axial", "coronal", "sagittal", "loc"]
        assert words(slider) == ["−2", "+2"]
        track, marker = slider.lines
        assert list(track.get_xdata()) == [-2.0, 2.0]
        assert list(marker.get_xdata()) == [(-2.0, 0.0, 2.0)[number]]
    paper = Paper(figures[1], tmp_path)
    slider, sheet = figures[1].axes
    check_grey(paper, by_place(sheet)[1][0], 3, 4, by_place(sheet)[1][0].get_array()[3, 4])
    paper.check(slider, 0.0, 0.0, "#0072b2")
    paper.check(slider, 1.0, 0.0, "#d5dae0")


def test_interventions(tmp_path: Path) -> None:
    changes = np.array([[1.30, 0.12], [np.nan, 0.90], [0.05, 0.06]])
    table = InterventionTable(
        ("vol", "loc", "residual"), ("vol_total", "loc_x"), changes, np.array([0.3, np.nan]), np.array([0.93, np.nan])
    )
    figure = draw_interventions(table, {"vol": ("vol_total",), "loc": ("loc_x",)}, "Moved")
    assert words(figure)[0] == "Moved"
    axes, bar = figure.axes
    assert words(axes) == ["1.30", "0.12", "n/a", "0.90", "0.05", "0.06", "0.30", "n/a"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["vol", "loc", "residual", "noise of the reader"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["vol_total (R² 0.93)", "loc_x"]
    frames = [patch.get_xy() for patch in axes.patches if isinstance(patch, Rectangle) and not patch.get_hatch()]
    assert frames == [(-0.5, -0.5), (0.5, 0.5)]
    (image,) = axes.images
    assert image.get_clim() == (0.0, 1.3)
    assert list(axes.lines[0].get_ydata()) == [2.5, 2.5]
    paper = Paper(figure, tmp_path)
    for row, column in ((0, 1), (1, 1), (2, 0)):
        paper.check(axes, column + 0.42, row + 0.36, colormaps["YlGnBu"](changes[row, column] / 1.3)[:3])
    paper.check_bar(bar, "YlGnBu", "neither")


def test_wrong_shapes_are_refused() -> None:
    volumes = np.zeros((1, 3, *SHAPE))
    with pytest.raises(ValueError, match="volumes must have 5 axes"):
        draw_swaps(volumes[0], ("vol",), [("a", "b")], "t1c", "t")
    with pytest.raises(ValueError, match="partitions has shape"):
        draw_swaps(volumes, ("vol", "loc"), [("a", "b")], "t1c", "t")
    with pytest.raises(ValueError, match="subjects has shape"):
        draw_swaps(volumes, ("vol",), [], "t1c", "t")
    with pytest.raises(ValueError, match="volumes must have 5 axes"):
        draw_walks(volumes[0], ("vol",), (0.0,), "t1c", "t")
    with pytest.raises(ValueError, match="steps has shape"):
        draw_walks(volumes, ("vol",), (0.0,), "t1c", "t")
    table = InterventionTable(("vol",), ("a", "b"), np.zeros((1, 2)), np.zeros(1), np.zeros(2))
    with pytest.raises(ValueError, match="noise has shape"):
        draw_interventions(table, {}, "t")
