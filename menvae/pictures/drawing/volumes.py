"""Slices of volumes: reconstructions and latent traversals.

`menvae.presentation.planes` defines the orientation. Shape legend: C channels (modalities), D, H, W spatial axes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from menvae.pictures.drawing.marks import (
    GREY,
    check_shape,
    colour_bar,
    display_window,
)
from menvae.pictures.drawing.sheet import SMALLEST_CHANGE_SCALE, Sheet, decoded_grid, draw_decoded_scales
from menvae.presentation.figures import (
    MUTED,
    new_figure,
)
from menvae.presentation.planes import (
    AXIAL,
    PLANES,
    Plane,
    displayed_slice,
    slice_index,
    slice_size_mm,
)


def draw_reconstruction(
    inputs: NDArray[Any],
    reconstruction: NDArray[Any],
    mask: NDArray[Any] | None,
    modalities: Sequence[str],
    title: str,
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    available: Sequence[bool] | None = None,
) -> Figure:
    """Draw input, reconstruction and their difference: one row per modality, three planes.

    Voxels without signal (exactly 0 in the z-scored input) are black in the input and the reconstruction; the
    difference shows all voxels. Input and reconstruction of a modality share one grey window; all modalities share one
    scale of differences, so that they can be compared. For a missing modality, only the reconstruction is drawn, where
    another modality has signal.

    Args:
        inputs: z-scored images [C, D, H, W].
        reconstruction: reconstructed images [C, D, H, W].
        mask: labels [D, H, W], 0 is background, outlined on the input; or None.
        modalities: names of the C channels.
        title: title of the picture.
        spacing_mm: voxel size along D, H, W.
        available: which modalities the subject has; None: all.

    Raises:
        ValueError: the shapes do not match.
    """
    inputs, reconstruction = np.asarray(inputs, dtype=np.float32), np.asarray(reconstruction, dtype=np.float32)
    if inputs.ndim != 4:
        raise ValueError(f"inputs must have 4 axes (C, D, H, W), got shape {list(inputs.shape)}")
    check_shape("reconstruction", reconstruction.shape, inputs.shape)
    check_shape("modalities", (len(modalities),), inputs.shape[:1])
    if mask is not None:
        check_shape("mask", mask.shape, inputs.shape[1:])
    there = [True] * len(inputs) if available is None else list(available)
    anywhere = (inputs[there] != 0).any(axis=0)
    shown = [inputs[row] if is_there else reconstruction[row] * anywhere for row, is_there in enumerate(there)]
    greys = [Normalize(*display_window(channel[channel != 0], 0.5, 99.8)) for channel in shown]
    bound = max(display_window(np.abs(reconstruction - inputs)[there], 0.0, 99.5)[1], 1e-6)
    diverging = Normalize(-bound, bound)

    grid = _Grid.fitted([slice_size_mm(plane, inputs.shape[1:], spacing_mm) for plane in PLANES], len(modalities))
    note = "Intensities in standard deviations (SD) from the mean"
    note += "" if mask is None else "; outline: tumour mask"
    figure = new_figure(*grid.size_inches, title, f"{note}; the patient's right is on the left")
    sheet = Sheet(figure, grid.box, grid.extent)
    for number, plane in enumerate(PLANES):
        index = slice_index(mask, plane, inputs.shape[1:])
        _head_columns(sheet, grid, number, f"{plane.name}, slice {index + 1} of {inputs.shape[1 + plane.axis]}")
        tumour = None if mask is None else displayed_slice(mask, plane, index)
        size = grid.sizes[number]
        for row, grey in enumerate(greys):
            places = grid.places(number, row)
            if there[row]:
                pair = [displayed_slice(volume[row], plane, index) for volume in (inputs, reconstruction)]
                _draw_pair(sheet, plane, pair, tumour, places, size, (grey, diverging))
            else:
                _draw_filled_in(sheet, displayed_slice(shown[row], plane, index), places, size, grey)
    _draw_scales(figure, sheet, grid, dict(zip(modalities, greys, strict=True)), diverging)
    return figure


@dataclass(frozen=True)
class _Grid:
    """Positions of the slices of a reconstruction: one row per modality, three columns per plane.

    Attributes:
        sizes: width and height in mm of a slice of each plane.
        num_rows: number of modalities.
        inch: inches per mm.
    """

    sizes: Sequence[tuple[float, float]]
    num_rows: int
    inch: float

    left: ClassVar[float] = 0.5
    right: ClassVar[float] = 0.62
    top: ClassVar[float] = 1.02
    bottom: ClassVar[float] = 0.72

    @classmethod
    def fitted(cls, sizes: Sequence[tuple[float, float]], num_rows: int) -> _Grid:
        """Return the grid whose slices have a total width of 11 inches."""
        return cls(sizes, num_rows, 11.0 / sum(3 * width for width, _ in sizes))

    @property
    def gap(self) -> float:
        """Gap between slices, in mm."""
        return 0.035 / self.inch

    @property
    def row_height(self) -> float:
        """Height of the tallest slice, in mm."""
        return max(height for _, height in self.sizes)

    @property
    def extent(self) -> tuple[float, float]:
        """Width and height in mm."""
        return self.start(len(self.sizes)) - self._between, self.num_rows * (self.row_height + self.gap)

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, bottom, width and height in inches."""
        return self.left, self.bottom, self.extent[0] * self.inch, self.extent[1] * self.inch

    @property
    def size_inches(self) -> tuple[float, float]:
        """Width and height of the figure."""
        return self.left + self.box[2] + self.right, self.top + self.box[3] + self.bottom

    def start(self, plane: int) -> float:
        """Return the left border of the columns of a plane, in mm."""
        return sum(3 * width + 2 * self.gap + self._between for width, _ in self.sizes[:plane])

    def places(self, plane: int, row: int) -> list[tuple[float, float]]:
        """Return the top left corners of the three slices of a plane and a modality, in mm."""
        width, height = self.sizes[plane]
        y = row * (self.row_height + self.gap) + (self.row_height - height) / 2
        return [(self.start(plane) + column * (width + self.gap), y) for column in range(3)]

    @property
    def _between(self) -> float:
        return 0.16 / self.inch


def _head_columns(sheet: Sheet, grid: _Grid, plane: int, heading: str) -> None:
    """Write the headings above the three columns of a plane."""
    width, _ = grid.sizes[plane]
    middle = grid.start(plane) + 1.5 * width + grid.gap
    sheet.text(heading, (middle, -0.26 / grid.inch), "center", "bottom", 9, weight="bold")
    for name, (x, _) in zip(("input", "reconstruction", "difference"), grid.places(plane, 0), strict=True):
        sheet.text(name, (x + width / 2, -0.06 / grid.inch), "center", "bottom", 8, colour=MUTED)


def _draw_scales(
    figure: Figure, sheet: Sheet, grid: _Grid, greys: Mapping[str, Normalize], diverging: Normalize
) -> None:
    """Name the modalities on the left; draw their grey scales on the right, and that of the differences below."""
    left, bottom, width, height = grid.box
    x = left + width + 0.1
    for row, (name, grey) in enumerate(greys.items()):
        y = row * (grid.row_height + grid.gap) + grid.row_height / 2
        sheet.text(name, (-0.12 / grid.inch, y), "right", "center", 9.5, weight="bold", upright=True)
        bar_height = 0.8 * grid.row_height * grid.inch
        bar_bottom = bottom + height - (row * (grid.row_height + grid.gap) + 0.9 * grid.row_height) * grid.inch
        colour_bar(figure, (x, bar_bottom, 0.09, bar_height), "gray", grey, "")
    whole_width, whole_height = grid.size_inches
    figure.text(x / whole_width, (bottom + height + 0.06) / whole_height, "SD", size=7.5, color=MUTED)
    place = (left + width - 0.28 * width, bottom - 0.24, 0.28 * width, 0.11)
    colour_bar(figure, place, "RdBu_r", diverging, "reconstruction \N{MINUS SIGN} input (SD)")


def _draw_pair(
    sheet: Sheet,
    plane: Plane,
    pair: Sequence[NDArray[np.float32]],
    tumour: NDArray[Any] | None,
    places: Sequence[tuple[float, float]],
    size: tuple[float, float],
    norms: tuple[Normalize, Normalize],
) -> None:
    """Draw a slice of the input, of the reconstruction and of their difference."""
    original, rebuilt = pair
    silent = original == 0
    sheet.image(np.ma.masked_array(original, silent), places[0], size, GREY, norms[0])
    sheet.image(np.ma.masked_array(rebuilt, silent), places[1], size, GREY, norms[0])
    sheet.image(rebuilt - original, places[2], size, colormaps["RdBu_r"], norms[1])
    sheet.letters(plane, places[0], size)
    if tumour is not None:
        sheet.outline(tumour, places[0], size)


def _draw_filled_in(
    sheet: Sheet,
    rebuilt: NDArray[np.float32],
    places: Sequence[tuple[float, float]],
    size: tuple[float, float],
    norm: Normalize,
) -> None:
    """Draw a slice of the reconstruction of a missing modality, and label the input as missing."""
    (x, y), (width, height) = places[0], size
    sheet.text("missing", (x + width / 2, y + height / 2), "center", "center", 8, colour=MUTED)
    sheet.image(np.ma.masked_array(rebuilt, rebuilt == 0), places[1], size, GREY, norm)


def draw_traversals(
    volumes: NDArray[Any],
    row_labels: Sequence[str],
    steps: Sequence[float],
    modality: str,
    title: str,
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> Figure:
    """Draw latent traversals: one row of axial slices per direction, with the change on the right.

    Every row shows the slice in which the first and the last step differ most. The scale of the changes covers at least
    a tenth of the grey window, so that those of a decoder that ignores z are black.

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
    darkest, brightest = display_window(volumes, 0.5, 99.9)
    grey = Normalize(darkest, brightest)
    change = np.abs(volumes[:, -1] - volumes[:, 0])
    smallest_scale = SMALLEST_CHANGE_SCALE * (brightest - darkest)
    change_norm = Normalize(0.0, max(display_window(change, 0.0, 99.9)[1], smallest_scale))

    size = slice_size_mm(AXIAL, volumes.shape[2:], spacing_mm)
    columns = len(steps) + 1
    inch = min(10.0 / (columns * size[0]), 1.5 / size[1])
    gap, between = 0.035 / inch, 0.14 / inch
    extent = (columns * (size[0] + gap) + between, len(row_labels) * (size[1] + gap))
    left, top, bottom = 1.45, 0.86, 0.72
    box = (left, bottom, extent[0] * inch, extent[1] * inch)
    note = f"{modality}, axial slice where the ends differ most; the patient's right is on the left"
    figure = new_figure(max(left + box[2] + 0.12, 6.5), top + box[3] + bottom, title, note)
    sheet = Sheet(figure, box, extent)
    xs = [column * (size[0] + gap) + between * (column == len(steps)) for column in range(columns)]
    for x, heading in zip(xs, _headings(steps), strict=True):
        sheet.text(heading, (x + size[0] / 2, -0.06 / inch), "center", "bottom", 8.5)
    for row, label in enumerate(row_labels):
        y = row * (size[1] + gap)
        index = int(np.argmax(np.nan_to_num(change[row]).sum(axis=AXIAL.shown)))
        for x, volume in zip(xs, volumes[row], strict=False):
            sheet.image(displayed_slice(volume, AXIAL, index), (x, y), size, GREY, grey)
        sheet.image(displayed_slice(change[row], AXIAL, index), (xs[-1], y), size, colormaps["magma"], change_norm)
        sheet.letters(AXIAL, (xs[0], y), size)
        sheet.text(label, (-0.1 / inch, y + 0.5 * size[1]), "right", "bottom", 9.5, weight="bold")
        where = f"slice {index + 1} of {volumes.shape[-1]}"
        sheet.text(where, (-0.1 / inch, y + 0.54 * size[1]), "right", "top", 7.5, colour=MUTED)
    draw_decoded_scales(figure, box, grey, ("magma", change_norm, "absolute change (SD)", "max"))
    return figure


def _headings(steps: Sequence[float]) -> list[str]:
    """Return the column headings of a traversal."""
    of_steps = [f"{step:+g} SD".replace("-", "\N{MINUS SIGN}") if step else "0" for step in steps]
    return [*of_steps, "|last \N{MINUS SIGN} first|"]
