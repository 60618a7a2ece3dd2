"""What tests of pictures look at: the Figure before it is saved, and single pixels of the PNG file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from PIL import Image

from menvae.presentation.figures import DPI, save_figure

Floats = NDArray[np.float64]
PRIMITIVES = (
    *("plot", "step", "fill_between", "scatter", "errorbar", "hist", "imshow", "axhline", "axvline"),
    *("add_patch", "add_collection", "text", "annotate"),
)
"""Methods of Axes that menvae's pictures put marks on paper with."""


def panels(figure: Figure) -> dict[str, Axes]:
    """Return the panels that have a title, by title, in reading order."""
    return {title: axes for axes in figure.axes if (title := axes.get_title(loc="left"))}


def words(artist: Axes | Figure) -> list[str]:
    """Return the texts of a panel, or those that stand beside the panels of a figure."""
    return [text.get_text() for text in artist.texts]


def points(line: Line2D) -> Floats:
    """Return the vertices of a line [K, 2]."""
    return np.asarray(line.get_xydata(), dtype=np.float64)


def dots(axes: Axes) -> list[PathCollection]:
    """Return the clouds of points of a panel."""
    return [found for found in axes.collections if isinstance(found, PathCollection)]


def has_marks(axes: Axes) -> bool:
    """Whether a panel shows data, not only words."""
    return bool(axes.lines or axes.collections or axes.images or axes.patches)


class Paper:
    """A figure as it is saved."""

    def __init__(self, figure: Figure, folder: Path) -> None:
        path = save_figure(figure, folder / "new" / "picture.png")
        with Image.open(path) as picture:
            assert picture.format == "PNG"
            self.pixels = np.asarray(picture.convert("RGB"), dtype=np.float64) / 255
        np.testing.assert_allclose(self.pixels.shape[1::-1], DPI * figure.get_size_inches(), atol=1.0)

    def colour(self, axes: Axes, x: float, y: float) -> Floats:
        """Return red, green and blue in [0, 1] at a place in the coordinates of a panel's data."""
        across, up = axes.transData.transform((x, y))
        return self.pixels[len(self.pixels) - 1 - int(up), int(across)]

    def check(self, axes: Axes, x: float, y: float, colour: Any, alpha: float = 1.0) -> None:
        """Check the colour at a place; one that is not opaque lies on white."""
        expected = alpha * np.array(to_rgb(colour)) + (1 - alpha)
        np.testing.assert_allclose(self.colour(axes, x, y), expected, atol=0.02, err_msg=f"at ({x}, {y})")

    def check_bar(self, axes: Axes, cmap: str, extend: str, under: str | None = None) -> None:
        """Check that a colour bar shows its colours, and beyond its ends those of what lies beyond."""
        lying = (
            axes.get_position().width * axes.figure.get_figwidth()
            > axes.get_position().height * axes.figure.get_figheight()
        )
        low, high = axes.get_xlim() if lying else axes.get_ylim()
        shares = [0.1, 0.5, 0.9] + [-0.012] * (extend in ("min", "both")) + [1.012] * (extend in ("max", "both"))
        for share in shares:
            along = low + share * (high - low)
            colour = to_rgb(under) if under and share < 0 else colormaps[cmap](min(max(share, 0.0), 1.0))[:3]
            self.check(axes, *((along, 0.5) if lying else (0.5, along)), colour)


@contextmanager
def drawn_elsewhere(method: str) -> Iterator[None]:
    """Let a method of Axes put its marks on another sheet of paper, so that they are missing on this one."""
    original: Callable[..., Any] = getattr(Axes, method)

    def elsewhere(axes: Axes, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("transform") is not None:
            kwargs["transform"] = Figure().add_subplot().transAxes
        return original(Figure().add_subplot(), *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Axes, method, elsewhere)
        yield


def primitives_used(draw: Callable[[], object]) -> list[str]:
    """Return the methods of Axes that draw something while ``draw`` runs, apart from those called inside of others."""
    used: dict[str, None] = {}
    depth = 0

    def watched(method: str) -> Callable[..., Any]:
        original: Callable[..., Any] = getattr(Axes, method)

        def call(axes: Axes, *args: Any, **kwargs: Any) -> Any:
            nonlocal depth
            if depth == 0:
                used[method] = None
            depth += 1
            try:
                return original(axes, *args, **kwargs)
            finally:
                depth -= 1

        return call

    with pytest.MonkeyPatch.context() as patch:
        for method in PRIMITIVES:
            patch.setattr(Axes, method, watched(method))
        draw()
    return list(used)
