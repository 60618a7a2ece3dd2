"""Annotated heat maps: the leak matrix, and the correlation of the targets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from menvae.pictures.drawing.marks import (
    cell_text,
    check_shape,
    colour_bar,
)
from menvae.presentation.figures import (
    COLOURS,
    FAINT,
    INK,
    empty_panel,
    literal,
    new_figure,
    style_axes,
)

LEAK = COLOURS[1]


def draw_leak_matrix(
    r2: NDArray[Any],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    own: Mapping[str, Sequence[str]] | None = None,
    leaking: NDArray[np.bool_] | None = None,
) -> Figure:
    """Draw how well each partition predicts each target: R2, hatched where it cannot be computed, grey below 0.

    The cells of a partition's own targets are framed: only these should have high values. Leaks have an orange frame.

    Args:
        r2: [rows, columns]; NaN if it cannot be computed.
        rows: partitions.
        columns: target groups or features.
        title: title of the picture.
        own: {partition: its own columns}, such as ``model.supervision``; None: the column of the same name.
        leaking: cells [rows, columns] that are leaks; None: unknown.

    Raises:
        ValueError: the number of names does not fit the matrix.
    """
    check_shape("r2", np.shape(r2), (len(rows), len(columns)))
    owned = {row: (row,) for row in rows} if own is None else own
    frames = [
        (row, column)
        for row, partition in enumerate(rows)
        for column, target in enumerate(columns)
        if target in owned.get(partition, ())
    ]
    note = "R² of predicting a target (column) from a partition (row)"
    note += "; grey: worse than the mean" * bool(np.any(np.asarray(r2) < 0)) + "; framed: its own targets" * bool(
        frames
    )
    leaks = [] if leaking is None else np.argwhere(leaking).tolist()
    note += "; orange: a leak, beyond chance" * bool(leaks)
    cmap = colormaps["YlGnBu"].with_extremes(under=FAINT)
    figure, axes = _heat_map(r2, rows, columns, title, note, cmap, Normalize(0.0, 1.0), "R²", "min")
    for row, column in frames:
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=INK, linewidth=1.8, zorder=4))
    for row, column in leaks:  # within the cell, so that no neighbour seems framed
        inner = (column - 0.44, row - 0.44)
        axes.add_patch(Rectangle(inner, 0.88, 0.88, fill=False, edgecolor=LEAK, linewidth=1.8, zorder=4))
    axes.set_ylabel("predicted from", size=9, color=INK)
    return figure


def draw_target_correlation(
    before: NDArray[Any], after: NDArray[Any], partitions: Mapping[str, Sequence[str]]
) -> Figure:
    """Draw the correlation of the regression targets: strongly correlated targets cannot be separated.

    One matrix shows both: above the diagonal the features as measured, below it as learnt, after residualisation.

    Args:
        before: correlations [F, F] of the features; NaN if one is constant or never observed.
        after: the same after residualisation.
        partitions: partition -> its targets, F in total, in the order of the matrices.

    Raises:
        ValueError: the number of names does not fit the matrices.
    """
    names = [name for targets in partitions.values() for name in targets]
    for label, matrix in (("before", before), ("after", after)):
        check_shape(label, np.shape(matrix), (len(names), len(names)))
    lower = np.tri(len(names), dtype=bool)
    joined = np.where(lower, np.asarray(after, dtype=np.float64), np.asarray(before, dtype=np.float64))
    note = "Pearson correlation over the training subjects; above the diagonal as measured, below it residualised"
    title = "Correlation of the regression targets"
    cmap = colormaps["RdBu_r"]
    figure, axes = _heat_map(joined, names, names, title, note, cmap, Normalize(-1.0, 1.0), "r", "neither")
    if names:
        _frame_partitions(axes, [len(targets) for targets in partitions.values()])
    return figure


def _frame_partitions(axes: Axes, sizes: Sequence[int]) -> None:
    """Frame the diagonal blocks of the partitions; strong correlations matter outside of them."""
    start = 0
    for size in sizes:
        corner = (start - 0.5, start - 0.5)
        axes.add_patch(Rectangle(corner, size, size, fill=False, edgecolor=INK, linewidth=1.8, zorder=4))
        start += size


def _heat_map(
    values: NDArray[Any],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    note: str,
    cmap: Colormap,
    norm: Normalize,
    label: str,
    extend: str,
) -> tuple[Figure, Axes]:
    """Draw an annotated heat map with cells wide enough for their numbers."""
    values = np.asarray(values, dtype=np.float64)
    crowded = len(columns) > 8
    cell = (0.52, 0.4) if crowded else (0.85, 0.55)
    letter = 0.075
    longest_row, longest_column = (max((len(name) for name in names), default=0) for names in (rows, columns))
    slanted = longest_column * letter > cell[0]
    header = longest_column * 0.055 + 0.15 if slanted else 0.28
    panel = (max(1, len(columns)) * cell[0], max(1, len(rows)) * cell[1])
    left, top, bottom = longest_row * letter + 0.55, 0.6 + header, 0.25
    right = max(0.95, longest_column * 0.055 - 0.1 if slanted else 0.0)
    wanted = max(len(title) * 0.108, len(note) * 0.072) + 0.3
    width = max(left + panel[0] + right, wanted)
    height = top + panel[1] + bottom
    figure = new_figure(width, height, title, note)
    axes = figure.add_axes((left / width, bottom / height, panel[0] / width, panel[1] / height))
    style_axes(axes)
    if values.size == 0:
        empty_panel(axes, "nothing to show")
        return figure, axes
    axes.imshow(np.ma.masked_invalid(values), cmap=cmap, norm=norm, aspect="auto")
    _name_cells(axes, rows, columns, slanted)
    _annotate_cells(axes, values, cmap, norm, 7.5 if crowded else 9.0)
    bar_height = min(panel[1], 2.2)
    bar = (left + panel[0] + 0.15, bottom + panel[1] - bar_height, 0.11, bar_height)
    colour_bar(figure, bar, cmap, norm, label, extend)
    return figure, axes


def _name_cells(axes: Axes, rows: Sequence[str], columns: Sequence[str], slanted: bool) -> None:
    """Name rows and columns, and draw white lines between the cells."""
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelsize=8.5)
    axes.set_xticks(
        range(len(columns)),
        [literal(name) for name in columns],
        rotation=45 if slanted else 0,
        ha="left" if slanted else "center",
        rotation_mode="anchor",
    )
    axes.set_yticks(range(len(rows)), [literal(name) for name in rows])
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.hlines(np.arange(-0.5, len(rows)), -0.5, len(columns) - 0.5, color="white", linewidth=1.2)
    axes.vlines(np.arange(-0.5, len(columns)), -0.5, len(rows) - 0.5, color="white", linewidth=1.2)


def _annotate_cells(axes: Axes, values: NDArray[np.float64], cmap: Colormap, norm: Normalize, size: float) -> None:
    """Write the number into every cell, in white on dark cells; hatch cells without a number."""
    for (row, column), value in np.ndenumerate(values):
        known = math.isfinite(value)
        if not known:
            corner = (column - 0.5, row - 0.5)
            axes.add_patch(Rectangle(corner, 1, 1, facecolor="#f3f4f6", edgecolor=FAINT, hatch="////", linewidth=0))
        red, green, blue, _ = cmap(norm(value)) if known else (1.0, 1.0, 1.0, 1.0)
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.55
        text = cell_text(float(value)) if known else "n/a"
        axes.text(column, row, text, ha="center", va="center", size=size, color="white" if dark else INK)
