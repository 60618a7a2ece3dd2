"""Heat maps: the numbers in the cells are those of the matrix, and so are their colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from looking import Paper, words
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.patches import Rectangle

from menvae.pictures.drawing import matrices
from menvae.pictures.drawing.marks import cell_text
from menvae.presentation.figures import FAINT, INK

R2 = np.array([[0.91, 0.12, -0.40], [0.05, np.nan, 0.66]])


def rectangles(axes: Axes, hatched: bool) -> list[tuple[float, float, float, float]]:
    """Return x, y, width and height of the cells that are hatched, or of the frames."""
    found = [patch for patch in axes.patches if isinstance(patch, Rectangle) and bool(patch.get_hatch()) == hatched]
    return [(patch.get_x(), patch.get_y(), patch.get_width(), patch.get_height()) for patch in found]


def names(axes: Axes) -> tuple[list[str], list[str]]:
    """Return the names of rows and columns."""
    return [label.get_text() for label in axes.get_yticklabels()], [
        label.get_text() for label in axes.get_xticklabels()
    ]


def test_leak_matrix(tmp_path: Path) -> None:
    own = {"vol": ("vol_total",), "loc": ("loc_x", "loc_y")}
    figure = matrices.draw_leak_matrix(R2, ("vol", "loc"), ("vol_total", "loc_x", "loc_y"), "Leaks", own)
    assert words(figure)[0] == "Leaks"
    assert words(figure)[1].endswith("framed: its own targets")
    axes, bar = figure.axes
    (image,) = axes.images
    np.testing.assert_array_equal(np.ma.filled(image.get_array(), np.nan), R2)
    assert image.get_clim() == (0.0, 1.0)
    assert bar.get_ylabel() == "R²"
    assert words(axes) == ["0.91", "0.12", "−0.40", "0.05", "n/a", "0.66"]
    assert [text.get_position() for text in axes.texts] == [(c, r) for r in range(2) for c in range(3)]
    assert names(axes) == (["vol", "loc"], ["vol_total", "loc_x", "loc_y"])
    assert axes.get_ylabel() == "predicted from"
    assert axes.get_ylim()[0] > axes.get_ylim()[1], "the first row is at the top"
    assert rectangles(axes, hatched=True) == [(0.5, 0.5, 1, 1)]
    assert rectangles(axes, hatched=False) == [(-0.5, -0.5, 1, 1), (0.5, 0.5, 1, 1), (1.5, 0.5, 1, 1)]
    lines = [[segment.tolist() for segment in found.get_segments()] for found in axes.collections]
    assert lines == [
        [[[-0.5, y], [2.5, y]] for y in (-0.5, 0.5, 1.5)],
        [[[x, -0.5], [x, 1.5]] for x in (-0.5, 0.5, 1.5, 2.5)],
    ]
    paper = Paper(figure, tmp_path)
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 2)):
        paper.check(axes, column + 0.42, row + 0.36, colormaps["YlGnBu"](R2[row, column])[:3])
    paper.check(axes, 2.42, 0.36, FAINT)
    paper.check_bar(bar, "YlGnBu", "min", under=FAINT)


def test_a_leak_has_a_frame_of_its_own() -> None:
    own, leaking = {"vol": ("vol_total",)}, np.array([[False, False, False], [True, False, False]])
    rows, columns = ("vol", "loc"), ("vol_total", "loc_x", "loc_y")
    figure = matrices.draw_leak_matrix(R2, rows, columns, "Leaks", own, leaking)
    assert words(figure)[1].endswith("framed: its own targets; orange: a leak, beyond chance")
    framed = {patch.get_edgecolor(): patch.get_xy() for patch in figure.axes[0].patches if not patch.get_hatch()}
    assert framed == {to_rgba(INK): (-0.5, -0.5), to_rgba(matrices.LEAK): (-0.44, 0.56)}
    nothing = matrices.draw_leak_matrix(R2, rows, columns, "Leaks", own, np.zeros((2, 3), dtype=np.bool_))
    assert "leak" not in words(nothing)[1]


def test_a_negative_r2_does_not_look_like_one_of_zero() -> None:
    figure = matrices.draw_leak_matrix(np.array([[-3.0, -0.01, 0.0]]), ("vol",), ("a", "b", "c"), "t")
    (image,) = figure.axes[0].images
    worst, below, zero = image.to_rgba(image.get_array())[0]
    assert worst.tolist() == below.tolist()
    assert np.abs(worst - zero).max() > 0.1
    assert "grey: worse than the mean" in words(figure)[1]
    assert "grey" not in words(matrices.draw_leak_matrix(np.eye(2), ("a", "b"), ("a", "b"), "t"))[1]


def test_without_supervision_the_column_of_the_same_name_is_framed() -> None:
    axes = matrices.draw_leak_matrix(np.eye(2), ("vol", "loc"), ("loc", "vol"), "t").axes[0]
    assert rectangles(axes, hatched=False) == [(0.5, -0.5, 1, 1), (-0.5, 0.5, 1, 1)]
    figure = matrices.draw_leak_matrix(np.eye(2), ("vol", "loc"), ("a", "b"), "t")
    assert not rectangles(figure.axes[0], hatched=False)
    assert "framed" not in words(figure)[1]


def test_numbers_are_white_on_dark_cells_and_dark_on_light_ones() -> None:
    axes = matrices.draw_leak_matrix(np.array([[0.0, 1.0]]), ("a",), ("b", "c"), "t").axes[0]
    assert [text.get_color() == "white" for text in axes.texts] == [False, True]


def test_names_that_are_longer_than_their_cell_are_slanted() -> None:
    axes = matrices.draw_leak_matrix(np.eye(2), ("a", "b"), ("short", "a_very_long_feature_name"), "t").axes[0]
    assert {label.get_rotation() for label in axes.get_xticklabels()} == {45.0}


def test_target_correlation(tmp_path: Path) -> None:
    before = np.array([[1.0, 0.2, 0.3], [0.2, 1.0, 0.4], [0.3, 0.4, 1.0]])
    after = np.array([[1.0, -0.5, np.nan], [-0.5, 1.0, -0.7], [np.nan, -0.7, 1.0]])
    partitions = {"vol": ("vol_total", "vol_ncr"), "loc": ("loc_x",)}
    figure = matrices.draw_target_correlation(before, after, partitions)
    assert words(figure)[0] == "Correlation of the regression targets"
    axes, bar = figure.axes
    (image,) = axes.images
    expected = [[1.0, 0.2, 0.3], [-0.5, 1.0, 0.4], [np.nan, -0.7, 1.0]]
    np.testing.assert_array_equal(np.ma.filled(image.get_array(), np.nan), expected)
    assert image.get_clim() == (-1.0, 1.0)
    assert bar.get_ylabel() == "r"
    assert words(axes) == ["1.00", "0.20", "0.30", "−0.50", "1.00", "0.40", "n/a", "−0.70", "1.00"]
    everything = ["vol_total", "vol_ncr", "loc_x"]
    assert names(axes) == (everything, everything)
    assert rectangles(axes, hatched=False) == [(-0.5, -0.5, 2, 2), (1.5, 1.5, 1, 1)], "blocks of the partitions"
    assert rectangles(axes, hatched=True) == [(-0.5, 1.5, 1, 1)]
    paper = Paper(figure, tmp_path)
    for row, column in ((0, 1), (1, 0), (2, 1), (1, 1)):
        paper.check(axes, column + 0.4, row + 0.36, colormaps["RdBu_r"]((expected[row][column] + 1) / 2)[:3])
    paper.check_bar(bar, "RdBu_r", "neither")


def test_matrices_without_cells_say_so() -> None:
    for figure in (
        matrices.draw_target_correlation(np.eye(0), np.eye(0), {}),
        matrices.draw_leak_matrix(np.zeros((2, 0)), ("a", "b"), (), "t"),
    ):
        (axes,) = figure.axes
        assert not axes.images
        assert words(axes) == ["nothing to show"]


def test_names_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="r2 has shape"):
        matrices.draw_leak_matrix(np.zeros((2, 2)), ("a",), ("b",), "t")
    with pytest.raises(ValueError, match="after has shape"):
        matrices.draw_target_correlation(np.eye(1), np.eye(2), {"vol": ("a",)})


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.002, "0.00"), (-0.002, "0.00"), (-0.25, "−0.25"), (1.0, "1.00"), (-1e6, "−1.00e6")],
)
def test_cells_have_two_places_and_no_minus_zero(value: float, text: str) -> None:
    assert cell_text(value) == text
