"""A page of slices of volumes, and what pages of decoded volumes share."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from menvae.pictures.drawing.marks import check_shape, colour_bar
from menvae.presentation.figures import INK, literal
from menvae.presentation.planes import Plane, mask_outline

SMALLEST_CHANGE_SCALE = 0.1
"""Smallest range of decoded changes, as a fraction of the grey window: on a scale of their own, the tiny differences of
a decoder that ignores z would glow like real changes."""


class Sheet:
    """A page of slices on one Axes in millimetres, because one Axes per slice would be several times slower."""

    def __init__(self, figure: Figure, box: tuple[float, float, float, float], extent: tuple[float, float]) -> None:
        """Args: figure: page. box: left, bottom, width and height in inches. extent: width and height in mm."""
        width, height = figure.get_size_inches()
        self.axes = figure.add_axes((box[0] / width, box[1] / height, box[2] / width, box[3] / height))
        self.axes.set_axis_off()
        self.axes.set(xlim=(0, extent[0]), ylim=(extent[1], 0), autoscale_on=False)

    def image(
        self,
        pixels: NDArray[Any],
        place: tuple[float, float],
        size: tuple[float, float],
        cmap: Colormap,
        norm: Normalize,
    ) -> None:
        """Draw a displayed slice with its top left corner at ``place``, both in mm from the top left of the sheet."""
        x, y = place
        self.axes.imshow(
            pixels, cmap=cmap, norm=norm, extent=(x, x + size[0], y + size[1], y), aspect="auto", origin="upper"
        )

    def outline(self, mask: NDArray[Any], place: tuple[float, float], size: tuple[float, float]) -> None:
        """Draw the outline of a displayed slice of a mask."""
        segments = mask_outline(mask) * (size[0] / mask.shape[1], size[1] / mask.shape[0]) + np.array(place)
        self.axes.add_collection(
            LineCollection(list(segments), colors="#ffb000", linewidths=0.7, capstyle="round"), autolim=False
        )

    def letters(self, plane: Plane, place: tuple[float, float], size: tuple[float, float]) -> None:
        """Write the directions of the patient at the four borders of a slice."""
        (x, y), (width, height) = place, size
        spots = (
            (0.03, 0.5, "left", "center"),
            (0.97, 0.5, "right", "center"),
            (0.5, 0.02, "center", "top"),
            (0.5, 0.98, "center", "bottom"),
        )
        for letter, (across, down, ha, va) in zip(plane.letters, spots, strict=True):
            self.text(letter, (x + across * width, y + down * height), ha, va, 6.5, colour="white", on_image=True)

    def text(
        self,
        text: str,
        place: tuple[float, float],
        ha: Any,
        va: Any,
        size: float = 8.5,
        *,
        colour: str = INK,
        weight: str = "normal",
        on_image: bool = False,
        upright: bool = False,
    ) -> None:
        """Write a text at ``place`` in mm; ``on_image``: with a dark border."""
        label = self.axes.text(
            *place, literal(text), ha=ha, va=va, size=size, color=colour, weight=weight, rotation=90 * upright
        )
        if on_image:
            label.set_path_effects([withStroke(linewidth=1.2, foreground="black")])


def decoded_grid(volumes: NDArray[Any], axes: str, **lengths: int) -> NDArray[np.float32]:
    """Return decoded volumes [rows, columns, D, H, W] in float32.

    Args:
        volumes: one decoded modality.
        axes: words for the first two axes.
        lengths: name of the argument that belongs to each of them -> its length.

    Raises:
        ValueError: the shapes do not match.
    """
    grid = np.asarray(volumes, dtype=np.float32)
    if grid.ndim != 5:
        raise ValueError(f"volumes must have 5 axes ({axes}, D, H, W), got shape {list(grid.shape)}")
    for axis, (name, length) in enumerate(lengths.items()):
        check_shape(name, (length,), grid.shape[axis : axis + 1])
    return grid


def draw_decoded_scales(
    figure: Figure,
    box: tuple[float, float, float, float],
    grey: Normalize,
    change: tuple[str, Normalize, str, str],
) -> None:
    """Draw the scale of decoded intensities below a sheet on the left, and that of changes on the right.

    Args:
        figure: page.
        box: left, bottom, width and height of the sheet in inches.
        grey: scale of the intensities.
        change: colour map, scale, label and open ends of the changes, as for `colour_bar`.
    """
    left, bottom, width, _ = box
    bar_y, bar_width = bottom - 0.24, min(2.9, 0.42 * width)
    colour_bar(figure, (left, bar_y, bar_width, 0.11), "gray", grey, "decoded intensity (SD from the mean)")
    colour_bar(figure, (left + width - bar_width, bar_y, bar_width, 0.11), *change)
