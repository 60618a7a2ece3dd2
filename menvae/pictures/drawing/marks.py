"""Helpers that several pictures of a run share: colour bars, display ranges, cell texts."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from menvae.presentation.figures import (
    INK,
    literal,
    short_number,
    tick_locator,
)

GREY: Final = colormaps["gray"].with_extremes(bad="black")


def colour_bar(
    figure: Figure,
    box: tuple[float, float, float, float],
    cmap: str | Colormap,
    norm: Normalize,
    label: str,
    extend: str = "both",
) -> None:
    """Draw a colour bar in ``box`` = (left, bottom, width, height), in inches; horizontal if wider than high."""
    width, height = figure.get_size_inches()
    axes = figure.add_axes((box[0] / width, box[1] / height, box[2] / width, box[3] / height))
    horizontal = box[2] > box[3]
    bar = figure.colorbar(
        ScalarMappable(norm, cmap),
        cax=axes,
        orientation="horizontal" if horizontal else "vertical",
        extend=extend,
        extendfrac=0.03,
    )
    bar.outline.set_linewidth(0.5)
    bar.locator = tick_locator(4)
    bar.update_ticks()
    axes.tick_params(labelsize=7.5, length=2.5, width=0.6, pad=2, labelcolor=INK)
    bar.set_label(literal(label), size=8, color=INK, labelpad=2 if horizontal else 6)


def finite_values(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return the finite values, flattened."""
    flat = np.asarray(values, dtype=np.float64).ravel()
    return flat[np.isfinite(flat)]


def display_window(values: NDArray[Any], low: float, high: float) -> tuple[float, float]:
    """Return a nonempty display range from two percentiles."""
    finite = finite_values(values)
    if finite.size == 0:
        return 0.0, 1.0
    lower, upper = (float(bound) for bound in np.percentile(finite, (low, high)))
    return (lower, upper) if upper > lower else (lower - 0.5, lower + 0.5)


def needs_log(values: NDArray[Any]) -> bool:
    """Return whether a linear axis would squeeze more than half of a positive curve into the lowest 5 %."""
    finite = finite_values(values)
    return finite.size > 2 and float(finite.min()) > 0 and float(np.median(finite)) < 0.05 * float(finite.max())


def cell_text(value: float) -> str:
    """Format the number of a heat map cell: two decimals, never minus zero."""
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "\N{MINUS SIGN}") if abs(value) < 10 else short_number(value)


def check_shape(name: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Raise a `ValueError` with the name of the array unless its shape is as expected."""
    if shape != expected:
        raise ValueError(f"{name} has shape {list(shape)}, expected {list(expected)}")
