"""Pictures of a comparison: every point, line and target is where the runs have it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from looking import Paper, dots, has_marks, panels, points, words
from matplotlib.container import ErrorbarContainer
from matplotlib.lines import Line2D
from stores import tracked

from menvae.comparison.compare import ComparisonSettings, compare
from menvae.comparison.pictures import draw_effect, draw_trade_offs, trade_offs
from menvae.comparison.results import Comparison
from menvae.presentation.figures import COLOURS, MUTED

FEW = {"r2": (">", 0.5), "dcor": ("<", 0.4)}
MEASURED = {0: [(0.70, 0.60), (0.80, 0.70)], 5: [(0.60, 0.30), (0.64, 0.34)], 10: [(0.40, 0.50), (0.30, 0.40)]}
"""Weight -> (R2, dCor) of two seeds; the last is worse in both gates than the second."""


def comparison() -> Comparison:
    runs = [
        tracked({"loss.lambda_dcor": weight, "seed": seed}, {"r2": r2, "dcor": dcor}, FEW)
        for weight, seeds in MEASURED.items()
        for seed, (r2, dcor) in enumerate(seeds)
    ]
    return compare(runs, ComparisonSettings())


def test_trade_offs(tmp_path: Path) -> None:
    found = comparison()
    (cohort,) = found.cohorts
    pairs = trade_offs(cohort, found.gates)
    assert [(across.name, up.name) for across, up in pairs] == [("r2", "dcor")]
    figure = draw_trade_offs(cohort, pairs)
    assert words(figure)[0] == "Trade-offs between gates"
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("r2 (> 0.5)", "dcor (< 0.4)")
    expected = {tuple(np.mean(seeds, axis=0)): np.std(seeds, axis=0, ddof=1) for seeds in MEASURED.values()}
    bars = [container for container in axes.containers if isinstance(container, ErrorbarContainer)]
    assert len(bars) == 3
    for bar in bars:
        point, _, (across, up) = bar.lines
        assert isinstance(point, Line2D)
        ((x, y),) = points(point)
        (deviation,) = [sd for mean, sd in expected.items() if np.allclose(mean, (x, y))]
        np.testing.assert_allclose(across.get_segments()[0][:, 0], [x - deviation[0], x + deviation[0]])
        np.testing.assert_allclose(up.get_segments()[0][:, 1], [y - deviation[1], y + deviation[1]])
        assert (point.get_markerfacecolor() == COLOURS[0]) == (x > 0.5), "filled on the front"
    lines = [points(line).tolist() for line in axes.lines]
    assert [[0.5, 0.0], [0.5, 1.0]] in lines
    assert [[0.0, 0.4], [1.0, 0.4]] in lines
    (stairs,) = [line for line in axes.lines if line.get_drawstyle() == "steps-post"]
    np.testing.assert_allclose(points(stairs), [[0.75, 0.65], [0.62, 0.32]])
    assert sorted(words(axes)) == ["1", "2", "3"]
    paper = Paper(figure, tmp_path)
    paper.check(axes, 0.62, 0.32, COLOURS[0])
    paper.check(axes, 0.35, 0.45, "white")
    paper.check(axes, 0.72, 0.37, COLOURS[2], alpha=0.1)  # both targets are met here
    paper.check(axes, 0.70, 0.48, "white")


def test_trade_offs_of_configurations_without_values_say_so() -> None:
    runs = [
        tracked({"loss.lambda_dcor": weight, "seed": 0}, {"r2": 0.1 * weight, "dcor": None}, FEW) for weight in (1, 2)
    ]
    found = compare(runs, ComparisonSettings())
    (axes,) = draw_trade_offs(found.cohorts[0], [(found.gates[0], found.gates[1])]).axes
    assert not has_marks(axes)
    assert words(axes) == ["no configuration has both values"]


def test_effect(tmp_path: Path) -> None:
    found = comparison()
    (cohort,) = found.cohorts
    (effect,) = cohort.effects
    figure = draw_effect(effect, cohort, found.gates)
    assert words(figure)[0] == "Effect of loss.lambda_dcor"
    shown = panels(figure)
    assert list(shown) == ["r2 > 0.5", "dcor < 0.4"]
    for gate, (axes, target) in enumerate(zip(shown.values(), (0.5, 0.4), strict=True)):
        (cloud,) = dots(axes)
        every = {(place, pair[gate]) for place, seeds in enumerate(MEASURED.values()) for pair in seeds}
        assert {tuple(point) for point in np.asarray(cloud.get_offsets()).tolist()} == every
        means = [np.mean(seeds, axis=0)[gate] for seeds in MEASURED.values()]
        (line,) = [line for line in axes.lines if len(points(line)) == 3]
        np.testing.assert_allclose(points(line), np.stack([np.arange(3), means], axis=1))
        assert [[0.0, target], [1.0, target]] in [points(line).tolist() for line in axes.lines]
        marks = [line for line in axes.lines if len(points(line)) == 1]
        met = [value > target if gate == 0 else value < target for value in means]
        assert [mark.get_markerfacecolor() == COLOURS[0] for mark in marks] == met
        assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "5", "10"]
        assert axes.get_xlim() == (-0.5, 2.5)
    paper = Paper(figure, tmp_path)
    paper.check(shown["r2 > 0.5"], 1.0, 0.62, COLOURS[0])
    paper.check(shown["r2 > 0.5"], 2.0, 0.35, "white")  # hollow: below its target
    paper.check(shown["r2 > 0.5"], 0.5, (0.75 + 0.62) / 2, COLOURS[0])
    paper.check(shown["dcor < 0.4"], 0.0, 0.60, MUTED, alpha=0.45)


def test_a_gate_without_values_says_so() -> None:
    runs = [
        tracked({"loss.lambda_dcor": weight, "seed": 0}, {"r2": 0.1 * weight, "dcor": None}, FEW) for weight in (1, 2)
    ]
    found = compare(runs, ComparisonSettings())
    (cohort,) = found.cohorts
    shown = panels(draw_effect(cohort.effects[0], cohort, found.gates))
    assert not has_marks(shown["dcor < 0.4"])
    assert words(shown["dcor < 0.4"]) == ["no run has a value"]
    assert has_marks(shown["r2 > 0.5"])


@pytest.mark.parametrize("value", [-1e6, 0.0])
def test_a_target_that_would_press_the_values_together_is_out_of_view(value: float) -> None:
    runs = [
        tracked({"loss.lambda_dcor": weight, "seed": 0}, {"r2": value + 0.001 * weight, "dcor": 0.1 * weight}, FEW)
        for weight in (1, 2)
    ]
    found = compare(runs, ComparisonSettings())
    (axes,) = draw_trade_offs(found.cohorts[0], [(found.gates[0], found.gates[1])]).axes
    low, high = axes.get_xlim()
    assert not low < 0.5 < high
    assert low < value + 0.001 < value + 0.002 < high
