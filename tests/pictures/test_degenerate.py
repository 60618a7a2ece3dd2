"""Pictures survive missing, constant and hostile input, and leave no trace in matplotlib."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from looking import Paper, words
from matplotlib.figure import Figure
from numpy.typing import NDArray

from menvae.pictures.drawing import curves, latent, matrices, volumes
from menvae.presentation.figures import save_figure

MODALITIES = ("t1c", "t1n")
HOSTILE = r"<b>$\frac{1}$ {x} 100% \undefined _^"
SHOWN = HOSTILE.replace("$", r"\$")


def head(shape: tuple[int, int, int] = (20, 24, 16)) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return an ellipsoid with a ball in two modalities [2, D, H, W], and the ball's mask."""
    grid = np.stack(np.meshgrid(*[(np.arange(size) + 0.5) / size for size in shape], indexing="ij"))
    inside = (((grid - 0.5) / 0.45) ** 2).sum(axis=0) < 1
    ball = ((grid - np.array([0.65, 0.6, 0.55]).reshape(3, 1, 1, 1)) ** 2).sum(axis=0) < 0.15**2
    noise = np.random.default_rng(0).normal(0, 0.2, shape)
    volume = np.where(inside, np.where(ball, 3.0, -0.2) + noise, 0.0)
    return np.stack([volume, -volume]).astype(np.float32), ball.astype(np.uint8)


def check(figure: Figure, folder: Path, title: str = "") -> None:
    """A figure can be saved at a sensible size, and its title is what it was given, character for character."""
    pixels = Paper(figure, folder).pixels
    assert 200 < pixels.shape[0] < 3000
    assert 400 < pixels.shape[1] < 3000
    assert not title or words(figure)[0] == title


@pytest.mark.parametrize("shape", [(16, 16, 16), (12, 30, 18)])
@pytest.mark.parametrize("value", [0.0, 1.0, np.nan], ids=["zero", "constant", "nan"])
def test_volumes(shape: tuple[int, int, int], value: float, tmp_path: Path) -> None:
    inputs, mask = head(shape)
    for original in (inputs, np.full_like(inputs, value)):
        figure = volumes.draw_reconstruction(original, np.full_like(inputs, value), mask, MODALITIES, HOSTILE)
        check(figure, tmp_path, SHOWN)
        assert len(figure.axes[0].images) == 18
    walks = np.full((2, 2, *shape), value)
    figure = volumes.draw_traversals(walks, ("vol", HOSTILE), (-3.0, 3.0), "t1c", "Walks")
    check(figure, tmp_path, "Walks")
    assert len(figure.axes[0].images) == 6
    assert SHOWN in words(figure.axes[0])


@pytest.mark.parametrize("num_epochs", [1, 2, 500])
def test_curves(num_epochs: int, tmp_path: Path) -> None:
    epochs = np.arange(1.0, num_epochs + 1)
    check(curves.draw_schedule({HOSTILE: (epochs, np.full(num_epochs, 0.1))}, (epochs, epochs)), tmp_path, "Curriculum")
    rows = [{"epoch": epoch, "diag/grad_norm": 0.0, f"val_epoch/ssim_{HOSTILE}": 1.0} for epoch in epochs]
    figure = curves.draw_training_curves(rows, {HOSTILE: [0.1], "indep/max_dcor": [float("nan")]})
    check(figure, tmp_path, "Training")
    assert sum(len(axes.lines) for axes in figure.axes) == 2


@pytest.mark.parametrize("columns", [("vol", "loc"), tuple(f"a_long_feature_name_{index}" for index in range(13))])
@pytest.mark.parametrize("value", [0.3, -1e6, np.nan])
def test_matrices(columns: tuple[str, ...], value: float, tmp_path: Path) -> None:
    figure = matrices.draw_leak_matrix(np.full((3, len(columns)), value), ("vol", "loc", "x"), columns, HOSTILE)
    check(figure, tmp_path, SHOWN)
    assert len(words(figure.axes[0])) == 3 * len(columns)


def test_latent_space(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    latents = {
        "vol": random.normal(size=(40, 24)),
        "one dimension": random.normal(size=(40, 1)),
        "constant": np.zeros((40, 3)),
        "broken": np.full((40, 3), np.nan),
        HOSTILE: random.normal(size=(40, 2)),
    }
    figure = latent.draw_latent_scatter(latents, {"constant": (HOSTILE, np.full(40, np.nan))})
    check(figure, tmp_path)
    assert sum(axes.get_title(loc="left").startswith(SHOWN) for axes in figure.axes) == 1
    values = {"vol_total": np.full(4, 3.0), HOSTILE: np.full(4, np.nan)}
    check(latent.draw_regression(values, values, {HOSTILE: HOSTILE}, {"vol_total": float("nan")}), tmp_path)


def test_same_input_same_bytes_and_no_global_state(tmp_path: Path) -> None:
    inputs, mask = head()
    before = dict(matplotlib.rcParams)
    files = [tmp_path / f"{repeat}.png" for repeat in "ab"]
    for file in files:
        save_figure(volumes.draw_reconstruction(inputs, inputs * 0.5, mask, MODALITIES, "t"), file)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert files[0].stat().st_size < 1_500_000
    assert dict(matplotlib.rcParams) == before


def test_pyplot_is_never_imported() -> None:
    modules = ", ".join(f"menvae.pictures.drawing.{name}" for name in ("curves", "latent", "matrices", "volumes"))
    code = f"import sys, {modules}, menvae.presentation.trajectories; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
