"""Common style of all figures: sizes, colours, axes, numbers.

Figures use only matplotlib's object-oriented interface (``Figure`` and its Agg canvas, never pyplot) and never change
``rcParams``, so drawing is safe in threads and in sweeps of many runs in one process.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

DPI: Final = 150
ANIMATION_DPI: Final = 100
ANIMATION_COLOURS: Final = 64
INK: Final = "#1b1f24"
MUTED: Final = "#5c6670"
FAINT: Final = "#d5dae0"
COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#4d4d4d")
"""The colour-blind-safe palette of Okabe & Ito (2008) without its yellow, plus two darker colours."""


@dataclass(frozen=True)
class Layout:
    """Sizes, in inches, of a figure with a grid of equal panels."""

    panel: tuple[float, float]
    gap: tuple[float, float] = (0.5, 0.5)
    left: float = 0.7
    right: float = 0.2
    top: float = 0.75
    bottom: float = 0.55


def literal(text: str) -> str:
    """Escape dollar signs, a pair of which matplotlib would parse as mathematics."""
    return text.replace("$", r"\$")


def new_figure(width: float, height: float, title: str, subtitle: str = "") -> Figure:
    """Make a white figure with its title at the top left.

    Args:
        width: in inches.
        height: in inches.
        title: what the figure shows.
        subtitle: a line below the title, such as how to read the figure.
    """
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    figure.text(
        0.12 / width, 1 - 0.1 / height, literal(title), ha="left", va="top", size=12.5, weight="bold", color=INK
    )
    if subtitle:
        figure.text(0.12 / width, 1 - 0.36 / height, literal(subtitle), ha="left", va="top", size=9, color=MUTED)
    return figure


def panel_grid(count: int, columns: int, layout: Layout, title: str, subtitle: str = "") -> tuple[Figure, list[Axes]]:
    """Make a figure with ``count`` panels in reading order, placed directly, which is faster than a layout engine.

    Args:
        count: number of panels.
        columns: number of panels per row.
        layout: sizes.
        title: what the figure shows.
        subtitle: a line below it.
    """
    num_rows = max(1, math.ceil(count / columns))
    (panel_width, panel_height), (gap_x, gap_y) = layout.panel, layout.gap
    width = layout.left + columns * panel_width + (columns - 1) * gap_x + layout.right
    height = layout.top + num_rows * panel_height + (num_rows - 1) * gap_y + layout.bottom
    figure = new_figure(width, height, title, subtitle)
    axes = []
    for index in range(count):
        row, column = divmod(index, columns)
        x = layout.left + column * (panel_width + gap_x)
        y = height - layout.top - panel_height - row * (panel_height + gap_y)
        axes.append(figure.add_axes((x / width, y / height, panel_width / width, panel_height / height)))
    return figure, axes


def style_axes(axes: Axes, title: str = "", xlabel: str = "", ylabel: str = "") -> None:
    """Apply the common style to a panel: two spines, small ticks, title at the left."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set(color=MUTED, linewidth=0.8)
    axes.tick_params(labelsize=8, colors=MUTED, width=0.8, length=3, labelcolor=INK)
    if title:
        # A fixed height, because matplotlib would draw all ticks twice to find one.
        axes.set_title(literal(title), loc="left", y=1.0, size=9.5, weight="bold", color=INK, pad=6)
    axes.set_xlabel(literal(xlabel), size=8.5, color=INK, labelpad=3)
    axes.set_ylabel(literal(ylabel), size=8.5, color=INK, labelpad=3)


def empty_panel(axes: Axes, reason: str) -> None:
    """Write into a panel why it is empty."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(visible=True, color=FAINT)
    axes.text(
        0.5, 0.5, literal(reason), ha="center", va="center", size=8, color=MUTED, wrap=True, transform=axes.transAxes
    )


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, creating its folder; return ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=DPI, metadata={"Software": None}, pil_kwargs={"compress_level": 6})
    return path


def save_animation(figures: Iterable[Figure], path: Path, seconds_per_frame: float) -> Path:
    """Write figures of one size as an endless GIF that runs forth and back, creating its folder; return ``path``.

    All frames have the same palette, so that what does not change does not flicker.

    Raises:
        ValueError: there is no figure.
    """
    frames = [_pixels(figure) for figure in figures]
    if not frames:
        raise ValueError("an animation needs at least one figure")
    joined = Image.fromarray(np.concatenate([np.asarray(frame) for frame in frames]))
    palette = joined.quantize(ANIMATION_COLOURS, method=Image.Quantize.MEDIANCUT)
    first, *others = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    path.parent.mkdir(parents=True, exist_ok=True)
    duration = round(1000 * seconds_per_frame)
    first.save(path, "GIF", save_all=True, append_images=[*others, *others[-2::-1]], duration=duration, loop=0)
    return path


def _pixels(figure: Figure) -> Image.Image:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=ANIMATION_DPI, metadata={"Software": None})
    return Image.open(content).convert("RGB")


def tick_locator(count: int, integer: bool = False) -> MaxNLocator:
    """Return a locator of at most ``count`` + 1 round ticks; matplotlib's own steps include 1.5, 3, 4, 6 and 8."""
    return MaxNLocator(count, steps=[1, 2, 5, 10] if integer else [1, 2, 2.5, 5, 10], integer=integer)


def short_number(value: float) -> str:
    """Format a number with three significant digits, without an exponent if that is readable.

    >>> short_number(0.5), short_number(25.6), short_number(12345.0), short_number(0.0)
    ('0.500', '25.6', '12345', '0')
    """
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        text = f"{value:.2e}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
    else:
        text = f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}" if value else "0"
    return text.replace("-", "\N{MINUS SIGN}")


def text_colour(colour: str) -> str:
    """Darken the colour of a line, so that small text in it is readable on white."""
    red, green, blue = to_rgb(colour)
    return to_hex((0.78 * red, 0.78 * green, 0.78 * blue))
