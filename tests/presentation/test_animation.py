"""Animations: what is in the GIF file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from menvae.presentation.figures import ANIMATION_DPI, new_figure, save_animation
from menvae.presentation.page import Album


def test_runs_forth_and_back_for_ever(tmp_path: Path) -> None:
    figures = []
    for grey in (0.0, 0.5, 1.0):
        figure = new_figure(2.0, 1.0, "")
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        axes.set_axis_off()
        axes.imshow([[grey, 1.0 - grey]], cmap="gray", vmin=0.0, vmax=1.0, aspect="auto")
        figures.append(figure)
    path = save_animation(iter(figures), tmp_path / "new" / "walk.gif", 0.2)
    with Image.open(path) as picture:
        assert picture.format == "GIF"
        assert picture.info["loop"] == 0
        assert picture.size == (2 * ANIMATION_DPI, ANIMATION_DPI)
        frames = [(frame.info["duration"], np.asarray(frame.convert("L"))) for frame in ImageSequence.Iterator(picture)]
    assert [duration for duration, _ in frames] == [200] * 4
    left, right = ([int(pixels[50, column]) for _, pixels in frames] for column in (30, 170))
    assert left == pytest.approx([0, 128, 255, 128], abs=6)
    assert right == pytest.approx([255, 128, 0, 128], abs=6)
    embedded = Album().embed(path, "a walk")
    assert embedded is not None
    assert embedded.source.startswith("data:image/gif;base64,")
    assert (embedded.width, embedded.height) == (192, 96)


def test_nothing_is_no_animation(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^an animation needs at least one figure$"):
        save_animation([], tmp_path / "walk.gif", 0.2)
