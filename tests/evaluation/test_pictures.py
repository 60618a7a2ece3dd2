"""Pictures are written, turned the right way, and survive missing, constant and hostile input."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from menvae.evaluation import pictures
from menvae.presentation.figures import DPI

MODALITIES = ("t1c", "t1n")
GATES = {"vol_r2": 0.85, "loc_r2": 0.91, "max_dcor": 0.35, "residual_active_units": 0.6, "mean_z_ratio": 1.5}
HOSTILE = r"<b>$\frac{1}$ {x} 100% \undefined _^"


def head(shape: tuple[int, int, int] = (20, 24, 16)) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return an ellipsoid with a ball in two modalities [2, D, H, W], and the ball's mask."""
    grid = np.stack(np.meshgrid(*[(np.arange(size) + 0.5) / size for size in shape], indexing="ij"))
    inside = (((grid - 0.5) / 0.45) ** 2).sum(axis=0) < 1
    ball = ((grid - np.array([0.65, 0.6, 0.55]).reshape(3, 1, 1, 1)) ** 2).sum(axis=0) < 0.15**2
    noise = np.random.default_rng(0).normal(0, 0.2, shape)
    volume = np.where(inside, np.where(ball, 3.0, -0.2) + noise, 0.0)
    return np.stack([volume, -volume]).astype(np.float32), ball.astype(np.uint8)


def check(path: Path, returned: Path) -> tuple[int, int]:
    """A picture is a PNG of sensible size with something on it; return its size."""
    assert returned == path
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        width, height = picture.size
        grey = np.asarray(picture.convert("L"))
    assert 400 < width < 3000
    assert 200 < height < 3000
    assert grey.std() > 5, "blank picture"
    assert path.stat().st_size < 1_500_000
    return width, height


def metric_rows(num_epochs: int = 6) -> list[dict[str, float | None]]:
    return [
        {
            "epoch": epoch,
            "train_epoch/loss": 1.0 / epoch,
            "val_epoch/loss": 1.1 / epoch if epoch % 2 else None,
            "val_epoch/kl_raw": 20.0 + epoch,
            "sched/expected_kl_floor": 25.6,
            "sem/vol_r2": -20.0 / epoch**3 + 0.9,
            "sem/vol_total_r2": 0.5,
            "sem/loc_r2": float("nan") if epoch == 2 else 0.9,
            "indep/dcor_vol_loc": -0.1,
            "indep/dcor_vol_residual": 0.4 / epoch,
            "diag/mean_z_ratio": 1.0 + 0.1 * epoch,
            "diag/au_count": 12.0,
            "diag/grad_norm": 10.0 ** (2 - epoch),
        }
        for epoch in range(1, num_epochs + 1)
    ]


# --- orientation ------------------------------------------------------------------------------------------------------


def test_the_rendered_page_shows_the_patients_right_on_the_left(tmp_path: Path) -> None:
    inputs = np.full((1, 16, 16, 16), -1.0, dtype=np.float32)
    inputs[0, 12:, 5:11, 5:11] = 5.0  # right side, bright in the input only
    path = pictures.reconstruction_picture(inputs, np.full_like(inputs, -1.0), None, ("t1c",), "t", tmp_path / "r.png")
    with Image.open(path) as picture:
        red, blue = (np.asarray(picture.convert("RGB"), dtype=int)[..., channel] for channel in (0, 2))
    lower = blue - red > 60  # reconstruction below input: blue in the three difference panels
    lower[int(lower.shape[0] * 0.72) :] = False  # the colour bar
    columns = np.flatnonzero(lower.any(axis=0))
    # The first group of columns is the axial difference: it lies in the left half of its panel (panels 3 of 9).
    first_group = columns[columns < 0.45 * lower.shape[1]]
    left, panel = 0.5 * DPI, 11.0 / 9 * DPI
    assert left + 2 * panel - 5 < first_group.mean() < left + 2.4 * panel


# --- each picture -----------------------------------------------------------------------------------------------------


def test_schedule(tmp_path: Path) -> None:
    epochs = np.linspace(0, 10, 50)
    curves = {
        "recon": (epochs, np.ones(50)),
        "vol": (epochs, np.clip(epochs - 2, 0, 20)),
        "off": (epochs, np.zeros(50)),
        "annealed": (epochs, np.exp(-epochs)),
        HOSTILE: (epochs, np.full(50, 0.1)),
    }
    path = tmp_path / "new" / "folder" / "schedule.png"
    few = check(path, pictures.schedule_picture(curves, (epochs, np.full(50, 5e-5)), path))
    path = tmp_path / "more.png"
    many = {f"term_{index}": (epochs, np.ones(50)) for index in range(12)}
    assert check(path, pictures.schedule_picture(many, (epochs, np.ones(50)), path))[1] > few[1]


@pytest.mark.parametrize(
    "rows",
    [
        metric_rows(),
        metric_rows(1),
        [],
        [{"epoch": 1.0}, {"epoch": 2.0}],
        [dict.fromkeys(metric_rows(1)[0])] * 2,
        [{**dict.fromkeys(metric_rows(1)[0]), "epoch": epoch} for epoch in (1.0, 2.0)],
        [{**row, "diag/au_frac_residual": 0.7, "diag/au_frac": 0.8} for row in metric_rows()],
    ],
    ids=["full", "one epoch", "no epoch", "only epochs", "all None", "None beside epochs", "shares"],
)
@pytest.mark.parametrize("gates", [GATES, {}, {HOSTILE: 0.1, "max_dcor": float("nan")}], ids=["gates", "none", "odd"])
def test_training_curves(rows: pictures.Metrics, gates: dict[str, float], tmp_path: Path) -> None:
    path = tmp_path / "curves.png"
    check(path, pictures.training_curves(rows, gates, path))


def test_curve_panels_take_partitions_not_features_and_their_gates() -> None:
    panels = {panel.title: panel for panel in pictures._curve_panels(metric_rows(), GATES)}
    regression = panels["Target regression"]
    assert {line.label: line.gate for line in regression.lines} == {"vol": 0.85, "loc": 0.91}
    dependence = panels["Dependence of partitions"]
    assert [line.label for line in dependence.lines] == ["vol–loc", "vol–residual"]
    assert all(line.absolute for line in dependence.lines)
    assert [value for value, _ in dependence.references] == [0.35]
    named = pictures._curve_panels([{"epoch": 1.0, "sem/my_part_r2": 0.1}], {"my_part_r2": 0.5})
    assert [line.label for line in named[3].lines] == ["my_part"]


def test_labels_are_spread_in_their_order_inside_the_panel() -> None:
    heights = [0.99, 0.5, 0.51, 0.98, 0.0, 0.02]
    spread = pictures._spread(heights, 0.1)
    placed = [spread[index] for index in sorted(spread, key=lambda index: heights[index])]
    assert np.all(np.diff(placed) >= 0.1 - 1e-9)
    assert placed[0] >= -1e-9
    assert placed[-1] <= 1 + 1e-9
    assert pictures._spread([], 0.1) == {}


@pytest.mark.parametrize("shape", [(16, 16, 16), (20, 24, 16), (12, 30, 18)])
@pytest.mark.parametrize("with_mask", [True, False])
def test_reconstruction(shape: tuple[int, int, int], with_mask: bool, tmp_path: Path) -> None:
    inputs, mask = head(shape)
    path = tmp_path / "reconstruction.png"
    shown = mask if with_mask else None
    check(path, pictures.reconstruction_picture(inputs, inputs * 0.5, shown, MODALITIES, HOSTILE, path))


@pytest.mark.parametrize("value", [0.0, 1.0, np.nan], ids=["zero", "constant", "nan"])
def test_reconstruction_of_degenerate_volumes(value: float, tmp_path: Path) -> None:
    inputs, mask = head()
    path = tmp_path / "reconstruction.png"
    check(path, pictures.reconstruction_picture(inputs, np.full_like(inputs, value), mask, MODALITIES, "t", path))
    flat = np.full_like(inputs, value)
    check(path, pictures.reconstruction_picture(flat, flat, mask, MODALITIES, "t", path))


def test_reconstruction_keeps_proportions_in_millimetres(tmp_path: Path) -> None:
    inputs, _ = head((16, 16, 16))
    one, two = tmp_path / "1.png", tmp_path / "2.png"
    low = check(one, pictures.reconstruction_picture(inputs, inputs, None, MODALITIES, "t", one))
    tall = check(
        two, pictures.reconstruction_picture(inputs, inputs, None, MODALITIES, "t", two, spacing_mm=(1.0, 1.0, 2.0))
    )
    assert tall[0] == low[0]
    assert tall[1] > low[1] + 200


def test_shapes_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    inputs, mask = head()
    path = tmp_path / "x.png"
    with pytest.raises(ValueError, match=r"reconstruction has shape \[1, 20, 24, 16\], expected \[2, 20, 24, 16\]"):
        pictures.reconstruction_picture(inputs, inputs[:1], mask, MODALITIES, "t", path)
    with pytest.raises(ValueError, match="mask has shape"):
        pictures.reconstruction_picture(inputs, inputs, mask[None], MODALITIES, "t", path)
    with pytest.raises(ValueError, match="modalities has shape"):
        pictures.reconstruction_picture(inputs, inputs, mask, ("t1c",), "t", path)
    with pytest.raises(ValueError, match="must have 4 axes"):
        pictures.reconstruction_picture(inputs[0], inputs[0], mask, ("t1c",), "t", path)
    with pytest.raises(ValueError, match="must have 5 axes"):
        pictures.traversal_picture(inputs, ("vol",), (0.0,), "t1c", "t", path)
    with pytest.raises(ValueError, match="r2 has shape"):
        pictures.leak_matrix_picture(np.zeros((2, 2)), ("a",), ("b",), "t", path)
    with pytest.raises(ValueError, match="no feature 'b'"):
        pictures.regression_picture({"b": np.zeros(3)}, {"a": np.zeros(3)}, {}, {}, path)
    assert not path.exists()


@pytest.mark.parametrize("num_steps", [2, 7])
@pytest.mark.parametrize("constant", [True, False])
def test_traversal(num_steps: int, constant: bool, tmp_path: Path) -> None:
    inputs, _ = head()
    factors = np.ones(num_steps) if constant else np.linspace(0, 2, num_steps)
    volumes = np.stack([[factor * inputs[0] for factor in factors]] * 2)
    path = tmp_path / "traversal.png"
    steps = np.linspace(-3, 3, num_steps).tolist()
    check(path, pictures.traversal_picture(volumes, ("vol", HOSTILE), steps, "t1c", "Walks", path))


@pytest.mark.parametrize("columns", [("vol", "loc"), tuple(f"a_long_feature_name_{index}" for index in range(13))])
@pytest.mark.parametrize("value", [0.3, -1e6, np.nan])
def test_leak_matrix(columns: tuple[str, ...], value: float, tmp_path: Path) -> None:
    r2 = np.full((3, len(columns)), value)
    r2[0, 0] = 0.9
    path = tmp_path / "leak.png"
    partitions = ("vol", "loc", "residual")
    check(path, pictures.leak_matrix_picture(r2, partitions, columns, HOSTILE, path))
    bare = path.read_bytes()
    own = {"vol": columns[:1], "loc": columns[1:]}
    check(path, pictures.leak_matrix_picture(r2, partitions, columns, HOSTILE, path, own))
    assert (path.read_bytes() != bare) == (columns[0] != "vol"), "same names are framed without being told"


@pytest.mark.parametrize("names", [(), ("one",), ("a", "b", "c")])
def test_target_correlation(names: tuple[str, ...], tmp_path: Path) -> None:
    matrix = np.eye(len(names))
    if len(names) > 2:
        matrix[2, :] = np.nan
    path = tmp_path / "correlation.png"
    partitions = {"vol": names[:2], "loc": names[2:]}
    check(path, pictures.target_correlation_picture(matrix, np.eye(len(names)), partitions, path))
    with pytest.raises(ValueError, match="after"):
        pictures.target_correlation_picture(matrix, np.eye(len(names) + 1), partitions, path)


def test_latent_scatter(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    values = generator.normal(size=40)
    values[:5] = np.nan
    latents = {
        "vol": generator.normal(size=(40, 24)),
        "one dimension": generator.normal(size=(40, 1)),
        "constant": np.zeros((40, 3)),
        "broken": np.full((40, 3), np.nan),
        HOSTILE: generator.normal(size=(40, 2)),
    }
    colours = {"vol": ("vol_total (ln mm³)", values), "constant": ("never seen", np.full(40, np.nan))}
    path = tmp_path / "scatter.png"
    check(path, pictures.latent_scatter(latents, colours, path))
    check(path, pictures.latent_scatter({}, {}, path))
    check(path, pictures.latent_scatter({"vol": np.zeros((1, 4))}, {}, path))


def test_principal_components_agree_with_a_known_spread() -> None:
    generator = np.random.default_rng(2)
    rotation, _ = np.linalg.qr(generator.normal(size=(4, 4)))
    means = (generator.normal(size=(20_000, 4)) * [3.0, 2.0, 1.0, 0.0]) @ rotation.T + 5.0
    scores, shares = pictures.principal_components(means)
    np.testing.assert_allclose(shares, [9 / 14, 4 / 14], atol=0.02)
    np.testing.assert_allclose(scores.std(axis=0), [3.0, 2.0], rtol=0.03)
    np.testing.assert_allclose(scores.mean(axis=0), 0.0, atol=1e-9)


def test_regression(tmp_path: Path) -> None:
    true = {"vol_total": np.arange(6.0), "flat": np.ones(6), HOSTILE: np.full(6, np.nan)}
    true["vol_total"][0] = np.nan
    predicted = {name: np.nan_to_num(values) for name, values in true.items()}
    path = tmp_path / "regression.png"
    r2 = {"vol_total": 1.0, "flat": None}
    check(path, pictures.regression_picture(true, predicted, {"vol_total": "ln mm³"}, r2, path))
    check(path, pictures.regression_picture({}, {}, {}, {}, path))


# --- house rules ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.002, "0.00"), (-0.002, "0.00"), (-0.25, "−0.25"), (1.0, "1.00"), (-1e6, "−1.00e6")],
)
def test_cells_have_two_places_and_no_minus_zero(value: float, text: str) -> None:
    assert pictures._cell_text(value) == text


def test_same_input_same_bytes_and_no_global_state(tmp_path: Path) -> None:
    inputs, mask = head()
    before = dict(matplotlib.rcParams)

    def draw(path: Path) -> Path:
        return pictures.reconstruction_picture(inputs, inputs * 0.5, mask, MODALITIES, "t", path)

    drawers: list[Callable[[Path], Path]] = [draw, lambda path: pictures.training_curves(metric_rows(), GATES, path)]
    for index, drawer in enumerate(drawers):
        first, second = (drawer(tmp_path / f"{index}_{repeat}.png").read_bytes() for repeat in "ab")
        assert first == second
    assert dict(matplotlib.rcParams) == before


def test_pyplot_is_never_imported() -> None:
    code = "import sys, menvae.evaluation.pictures; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
