"""The curriculum and the curves of training, held to the numbers that they are drawn from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from looking import Paper, has_marks, panels, points, words
from matplotlib.colors import to_hex

from menvae.pictures.drawing import curves
from menvae.presentation.figures import COLOURS, INK, MUTED

EPOCHS = np.linspace(0.0, 10.0, 51)
GATES = {
    "sem/vol_r2": [0.85],
    "sem/loc_r2": [0.91],
    "indep/max_dcor": [0.35],
    "diag/au_frac_residual": [0.6],
    "diag/mean_z_ratio": [1.5],
    "diag/grad_norm": [0.01, 2.0],
}


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
            "val_epoch/ssim_t1_native": 0.1 * epoch,
            "diag/grad_norm": 10.0 ** (2 - epoch),
        }
        for epoch in range(1, num_epochs + 1)
    ]


# --- the curriculum ---------------------------------------------------------------------------------------------------


def test_schedule(tmp_path: Path) -> None:
    values = {
        "recon": np.full(51, 2.0),
        "vol": np.clip(EPOCHS - 2.0, 0.0, 20.0),
        "off": np.zeros(51),
        "annealed": np.exp(-EPOCHS),
    }
    figure = curves.draw_schedule({name: (EPOCHS, curve) for name, curve in values.items()}, (EPOCHS, 5e-5 * EPOCHS))
    assert words(figure)[0] == "Curriculum"
    rows = figure.axes
    assert len(rows) == 5, "a row for each term, and the learning rate"
    named = ("recon", "vol", "off", "annealed (log axis)", "learning rate")
    assert [[word for word in words(axes) if word in named] for axes in rows] == [[name] for name in named]
    for axes, curve in zip(rows, [*values.values(), 5e-5 * EPOCHS], strict=True):
        assert axes.get_xlim() == (0.0, 10.0)
        assert not axes.lines if not curve.any() else len(axes.lines) == 1
        for line in axes.lines:
            np.testing.assert_array_equal(points(line), np.stack([EPOCHS, curve], axis=1))
        assert axes.get_ylim()[1] > curve.max()
    assert [axes.get_yscale() for axes in rows] == ["linear", "linear", "linear", "log", "linear"]
    assert [axes.get_ylim()[0] for axes in rows if axes is not rows[3]] == [0.0] * 4
    assert "off for the whole run" in words(rows[2])
    assert words(rows[1])[-2:] == ["8.00", "8.00"], "peak and final value"
    assert words(rows[3])[-2:] == ["1.00", "4.54e−5"]
    assert [axes.get_xlabel() for axes in rows] == ["", "", "", "", "epoch"]
    assert {"peak", "at the end"} <= set(words(rows[0]))
    paper = Paper(figure, tmp_path)
    paper.check(rows[0], 5.0, 1.0, COLOURS[0], alpha=0.16)
    paper.check(rows[1], 9.0, 1.0, COLOURS[1], alpha=0.16)
    paper.check(rows[1], 1.0, 1.0, "white")
    paper.check(rows[1], 8.0, 6.0, COLOURS[1])
    paper.check(rows[4], 8.0, 5e-5 * 8.0, INK)


def test_schedule_has_a_row_for_each_term() -> None:
    many = {f"term_{index}": (EPOCHS, np.ones(51)) for index in range(12)}
    assert len(curves.draw_schedule(many, (EPOCHS, np.ones(51))).axes) == 13
    assert len(curves.draw_schedule({}, (EPOCHS, np.ones(51))).axes) == 1


# --- training ---------------------------------------------------------------------------------------------------------


def test_training_curves(tmp_path: Path) -> None:
    figure = curves.draw_training_curves(metric_rows(), GATES)
    found = panels(figure)
    assert list(found) == [
        *("Objective", "Reconstruction", "KL to the prior, unclamped", "Target regression", "Dependence of partitions"),
        *("Does the decoder use z?", "Active units, Var(μ) > 0.01", "Image quality", "Gradient"),
    ]
    epochs = np.arange(1.0, 7.0)
    expected = {
        "Objective": [(epochs, 1 / epochs), (epochs[::2], 1.1 / epochs[::2])],
        "KL to the prior, unclamped": [(epochs, 20 + epochs), (epochs, np.full(6, 25.6))],
        "Target regression": [(epochs, -20 / epochs**3 + 0.9), (np.delete(epochs, 1), np.full(5, 0.9))],
        "Dependence of partitions": [(epochs, np.full(6, 0.1)), (epochs, 0.4 / epochs)],
        "Does the decoder use z?": [(epochs, 1 + 0.1 * epochs)],
        "Active units, Var(μ) > 0.01": [(epochs, np.full(6, 12.0))],
        "Image quality": [(epochs, 0.1 * epochs)],
        "Gradient": [(epochs, 10.0 ** (2 - epochs))],
    }
    for title, series in expected.items():
        lines = found[title].lines[: len(series)]
        assert len(lines) == len(series)
        for line, (x, y) in zip(lines, series, strict=True):
            np.testing.assert_allclose(points(line), np.stack([x, y], axis=1), err_msg=title)
        assert found[title].get_xlim() == (1.0, 6.0)
        assert found[title].get_xlabel() == "epoch"
    assert not has_marks(found["Reconstruction"])
    assert words(found["Reconstruction"]) == ["not recorded:\ntrain_epoch/recon or val_epoch/recon"]
    assert found["Gradient"].get_yscale() == "log"
    assert len(found["Does the decoder use z?"].lines) == 1 + 2, "its gate, and 1"
    paper = Paper(figure, tmp_path)
    paper.check(found["Image quality"], 3.5, 0.35, COLOURS[0])
    paper.check(found["Does the decoder use z?"], 3.5, 1.35, COLOURS[0])
    paper.check(found["Does the decoder use z?"], 5.0, 1.3, "white")


def test_gates_are_dashed_lines_in_the_colour_of_their_curve_and_named() -> None:
    found = panels(curves.draw_training_curves(metric_rows(), GATES))

    def levels(title: str) -> list[tuple[float, str]]:
        of_gates = [line for line in found[title].lines if line.is_dashed() and len(set(points(line)[:, 1])) == 1]
        return [(points(line)[0, 1], to_hex(str(line.get_color()))) for line in of_gates]

    assert levels("Target regression") == [(0.85, COLOURS[0]), (0.91, COLOURS[1])]
    assert (0.35, MUTED) in levels("Dependence of partitions")
    assert levels("Does the decoder use z?") == [(1.5, COLOURS[0]), (1.0, MUTED)]
    assert "vol 0.807 (gate 0.85)" in words(found["Target regression"])
    assert "gate 0.35" in words(found["Dependence of partitions"])
    assert {"vol–loc 0.100", "vol–residual 0.0667"} <= set(words(found["Dependence of partitions"]))
    assert {"z = mean 1.60 (gate 1.5)", "1 = z is ignored"} == set(words(found["Does the decoder use z?"]))
    assert "t1_native 0.600" in words(found["Image quality"])
    assert levels("Gradient") == [(0.01, COLOURS[0]), (2.0, COLOURS[0])], "of any curve, and each of several"


def test_axes_hold_their_scale_and_r2_is_cut_where_it_would_hide_the_end() -> None:
    found = panels(curves.draw_training_curves(metric_rows(), GATES))
    low, high = found["Target regression"].get_ylim()
    assert low == pytest.approx(-0.5 - 0.05 * 1.5)
    assert high == pytest.approx(1.0 + 0.05 * 1.5)
    assert found["Target regression"].get_ylabel() == "R² (validation), cut at -0.5"
    assert found["KL to the prior, unclamped"].get_ylim()[0] == 0.0
    assert found["Dependence of partitions"].get_ylim() == pytest.approx((0.0, 0.5 + 0.05 * 0.5))


def test_shares_of_active_units_replace_counts_where_they_are_known() -> None:
    rows = [{**row, "diag/au_frac_residual": 0.7, "diag/au_frac": 0.8} for row in metric_rows()]
    axes = panels(curves.draw_training_curves(rows, GATES))["Active units, Var(μ) > 0.01"]
    assert axes.get_ylabel() == "fraction of dimensions"
    assert [set(points(line)[:, 1]) for line in axes.lines] == [{0.8}, {0.7}, {0.6}], "all, residual, its gate"


def test_a_table_has_classes_and_columns_in_place_of_targets_and_images() -> None:
    rows: list[dict[str, float | None]] = [
        {"epoch": epoch, "sem/class_accuracy": 0.1 * epoch, "val_epoch/mse_gamma_ray": 1.0 / epoch} for epoch in (1, 2)
    ]
    found = panels(curves.draw_training_curves(rows, {}))
    assert "Image quality" not in found
    for title, name, values in (
        ("Classes", "accuracy 0.200", [0.1, 0.2]),
        ("Error of each column", "gamma ray", [1, 0.5]),
    ):
        (line,) = found[title].lines
        assert points(line)[:, 1].tolist() == pytest.approx(values)
        assert any(word.startswith(name) for word in words(found[title]))


def test_curve_panels_take_partitions_not_features() -> None:
    named = panels(curves.draw_training_curves([{"epoch": 1.0, "sem/my_part_r2": 0.1}], {"sem/my_part_r2": [0.5]}))
    assert words(named["Target regression"]) == ["my_part 0.100 (gate 0.5)"]
    unnamed = panels(curves.draw_training_curves([{"epoch": 1.0, "sem/my_feature_r2": 0.1}], {}))
    assert words(unnamed["Target regression"]) == ["not recorded:\nsem/<partition>_r2"]


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([], "no epoch yet"),
        ([{"epoch": 1.0}, {"epoch": 2.0}], "not recorded:\ndiag/grad_norm"),
        ([{"epoch": 1.0, "diag/grad_norm": None}], "no finite value for\ndiag/grad_norm"),
    ],
)
def test_an_empty_panel_says_why(rows: list[dict[str, float | None]], reason: str) -> None:
    found = panels(curves.draw_training_curves(rows, {}))
    assert not any(has_marks(axes) for axes in found.values())
    assert words(found["Gradient"]) == [reason]


def test_labels_are_spread_in_their_order_inside_the_panel() -> None:
    heights = [0.99, 0.5, 0.51, 0.98, 0.0, 0.02]
    spread = curves._spread(heights, 0.1)
    placed = [spread[index] for index in sorted(spread, key=lambda index: heights[index])]
    assert np.all(np.diff(placed) >= 0.1 - 1e-9)
    assert placed[0] >= -1e-9
    assert placed[-1] <= 1 + 1e-9
    assert curves._spread([], 0.1) == {}
