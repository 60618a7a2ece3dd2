"""Interventions on z: partitions swapped between patients, and walks along a direction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from menvae.pictures.drawing.marks import GREY, display_window
from menvae.pictures.drawing.sheet import SMALLEST_CHANGE_SCALE, Sheet, decoded_grid, draw_decoded_scales
from menvae.presentation.figures import COLOURS, FAINT, INK, MUTED, new_figure
from menvae.presentation.planes import AXIAL, PLANES, displayed_slice, slice_size_mm


def draw_swaps(
    volumes: NDArray[Any],
    partitions: Sequence[str],
    subjects: Sequence[tuple[str, str]],
    modality: str,
    title: str,
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> Figure:
    """Draw pairs of patients: the first as decoded, with each partition of the second, and the second as decoded.

    Below each image is its difference from the first of its row. Every row shows the axial slice in which all
    partitions together change most, with equal weight. The scale of the differences covers at least a tenth of the grey
    window.

    Args:
        volumes: one decoded modality [pairs, 1 + P + 1, D, H, W].
        partitions: the P partitions.
        subjects: first and second subject of each pair.
        modality: name of the modality.
        title: title of the picture.
        spacing_mm: voxel size along D, H, W.

    Raises:
        ValueError: the shapes do not match.
    """
    volumes = decoded_grid(volumes, "pairs, columns", subjects=len(subjects), partitions=len(partitions) + 2)
    changes = volumes - volumes[:, :1]
    darkest, brightest = display_window(volumes, 0.5, 99.9)
    bound = max(display_window(np.abs(changes), 0.0, 99.9)[1], SMALLEST_CHANGE_SCALE * (brightest - darkest))
    grey, diverging = Normalize(darkest, brightest), Normalize(-bound, bound)

    size = slice_size_mm(AXIAL, volumes.shape[2:], spacing_mm)
    headings = ["A", *(f"A, {name} of B" for name in partitions), "B"]
    inch = min(10.0 / (len(headings) * size[0]), 1.4 / size[1])
    gap, between = 0.035 / inch, 0.2 / inch
    row_height = 2 * (size[1] + gap) + between
    extent = (len(headings) * (size[0] + gap) + 2 * between, len(subjects) * row_height)
    left, top, bottom = 1.6, 0.86, 0.62
    box = (left, bottom, extent[0] * inch, extent[1] * inch)
    note = (
        f"{modality}, axial slice where swaps change most; below: difference from A; the patient's right is on the left"
    )
    figure = new_figure(max(left + box[2] + 0.12, 8.0), top + box[3] + bottom, title, note)
    sheet = Sheet(figure, box, extent)
    xs = [column * (size[0] + gap) + between * _groups(column, len(headings)) for column in range(len(headings))]
    for x, heading in zip(xs, headings, strict=True):
        sheet.text(heading, (x + size[0] / 2, -0.06 / inch), "center", "bottom", 8.5)
    for row, pair in enumerate(subjects):
        y, index = row * row_height, _slice_of_change(changes[row, 1:-1])
        for column, x in enumerate(xs):
            sheet.image(displayed_slice(volumes[row, column], AXIAL, index), (x, y), size, GREY, grey)
            if column:
                below = (x, y + size[1] + gap)
                sheet.image(
                    displayed_slice(changes[row, column], AXIAL, index), below, size, colormaps["RdBu_r"], diverging
                )
        sheet.letters(AXIAL, (xs[0], y), size)
        for line, name in enumerate((f"A: {pair[0]}", f"B: {pair[1]}")):
            sheet.text(name, (-0.1 / inch, y + (0.4 + 0.14 * line) * size[1]), "right", "bottom", 8)
        where = f"slice {index + 1} of {volumes.shape[-1]}"
        sheet.text(where, (-0.1 / inch, y + 0.6 * size[1]), "right", "top", 7.5, colour=MUTED)
    draw_decoded_scales(figure, box, grey, ("RdBu_r", diverging, "difference from A (SD)", "both"))
    return figure


def _groups(column: int, num_columns: int) -> int:
    """Return how many gaps are left of a column: one after the first and one before the last."""
    return (column > 0) + (column == num_columns - 1)


def _slice_of_change(changes: NDArray[np.float32]) -> int:
    """Return the axial slice in which volumes [P, D, H, W] are largest, each weighted by its total."""
    profile = np.abs(np.nan_to_num(changes)).sum(axis=tuple(1 + axis for axis in AXIAL.shown))
    totals = profile.sum(axis=1, keepdims=True)
    shares = np.divide(profile, totals, out=np.zeros_like(profile), where=totals > 0.0)
    return int(np.argmax(shares.sum(axis=0))) if shares.any() else changes.shape[-1] // 2


def draw_walks(
    volumes: NDArray[Any],
    row_labels: Sequence[str],
    steps: Sequence[float],
    modality: str,
    title: str,
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> Iterator[Figure]:
    """Draw latent traversals, one figure per step: a row of slices in three planes per direction.

    Every row shows the slices in which the first and the last step differ most.

    Args:
        volumes: one decoded modality [rows, steps, D, H, W].
        row_labels: direction of each row, such as ``vol``.
        steps: distance of each step from the mean, in standard deviations.
        modality: name of the modality.
        title: title of the picture.
        spacing_mm: voxel size along D, H, W.

    Raises:
        ValueError: the shapes do not match.
    """
    volumes = decoded_grid(volumes, "rows, steps", row_labels=len(row_labels), steps=len(steps))
    grey = Normalize(*display_window(volumes, 0.5, 99.9))
    change = np.abs(np.nan_to_num(volumes[:, -1] - volumes[:, 0]))
    cuts = [[int(np.argmax(each.sum(axis=plane.shown))) for plane in PLANES] for each in change]
    return (
        _walk(
            volumes[:, place], cuts, row_labels, step, (steps[0], steps[-1]), grey, f"{title}: {modality}", spacing_mm
        )
        for place, step in enumerate(steps)
    )


def _walk(
    volumes: NDArray[np.float32],
    cuts: Sequence[Sequence[int]],
    row_labels: Sequence[str],
    step: float,
    ends: tuple[float, float],
    grey: Normalize,
    title: str,
    spacing_mm: tuple[float, float, float],
) -> Figure:
    """Draw one step of a walk."""
    sizes = [slice_size_mm(plane, volumes.shape[1:], spacing_mm) for plane in PLANES]
    row_height = max(height for _, height in sizes)
    inch = min(4.2 / sum(width for width, _ in sizes), 1.3 / row_height)
    gap = 0.04 / inch
    extent = (sum(width + gap for width, _ in sizes), len(row_labels) * (row_height + gap))
    left, top = 0.95, 1.0
    box = (left, 0.1, extent[0] * inch, extent[1] * inch)
    figure = new_figure(max(left + box[2] + 0.1, 4.6), top + box[3] + box[1], title)
    _draw_slider(figure, (left, top + box[3] + box[1] - 0.55, box[2], 0.22), step, ends)
    sheet = Sheet(figure, box, extent)
    for row, label in enumerate(row_labels):
        x, y = 0.0, row * (row_height + gap)
        sheet.text(label, (-0.1 / inch, y + row_height / 2), "right", "center", 9.5, weight="bold")
        for plane, index, size in zip(PLANES, cuts[row], sizes, strict=True):
            if row == 0:
                sheet.text(plane.name, (x + size[0] / 2, -0.06 / inch), "center", "bottom", 8.5, colour=MUTED)
            place = (x, y + (row_height - size[1]) / 2)
            sheet.image(displayed_slice(volumes[row], plane, index), place, size, GREY, grey)
            x += size[0] + gap
    return figure


def _draw_slider(
    figure: Figure, box: tuple[float, float, float, float], step: float, ends: tuple[float, float]
) -> None:
    """Show where on the way between its ends a step is."""
    width, height = figure.get_size_inches()
    axes = figure.add_axes((box[0] / width, box[1] / height, box[2] / width, box[3] / height))
    axes.set_axis_off()
    margin = 0.12 * (ends[1] - ends[0]) + 1e-6
    axes.set(xlim=(ends[0] - margin, ends[1] + margin), ylim=(-1.0, 1.0), autoscale_on=False)
    axes.plot(ends, (0.0, 0.0), color=FAINT, linewidth=2.5, solid_capstyle="round")
    axes.plot([step], [0.0], marker="o", markersize=8, color=COLOURS[0])
    for end, side, alignment in ((ends[0], -1, "right"), (ends[1], 1, "left")):
        axes.text(end + 0.3 * side * margin, 0.0, _signed(end), ha=alignment, va="center", size=8, color=MUTED)
    figure.text(0.12 / width, (box[1] + box[3] / 2) / height, f"{_signed(step)} SD", va="center", size=9, color=INK)


def _signed(step: float) -> str:
    return f"{step:+g}".replace("-", "\N{MINUS SIGN}") if step else "0"
