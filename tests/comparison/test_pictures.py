"""Pictures of a comparison: every point, line and target is where the runs have it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from looking import Paper, dots, has_marks, panels, points, words
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.container import ErrorbarContainer
from matplotlib.lines import Line2D
from matplotlib.text import Text
from scipy import stats
from stores import tracked

from menvae.comparison.compare import ComparisonSettings, compare
from menvae.comparison.importance import Importance
from menvae.comparison.parallel_coordinates import (
    MOST_LINES,
    coordinates,
    draw_parallel_coordinates,
    parallel_words,
)
from menvae.comparison.pictures import BAND_ALPHA, draw_effect, draw_importance, draw_trade_offs, trade_offs
from menvae.comparison.results import Comparison
from menvae.comparison.tracked_runs import TrackedRun
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
    half = float(stats.t.ppf(0.975, 1)) / np.sqrt(2)  # of the interval of a mean of two, in standard deviations
    expected = {tuple(np.mean(seeds, axis=0)): half * np.std(seeds, axis=0, ddof=1) for seeds in MEASURED.values()}
    bars = [container for container in axes.containers if isinstance(container, ErrorbarContainer)]
    assert len(bars) == 3
    for bar in bars:
        point, _, (across, up) = bar.lines
        assert isinstance(point, Line2D)
        ((x, y),) = points(point)
        (bar_of,) = [one for mean, one in expected.items() if np.allclose(mean, (x, y))]
        np.testing.assert_allclose(across.get_segments()[0][:, 0], [x - bar_of[0], x + bar_of[0]])
        np.testing.assert_allclose(up.get_segments()[0][:, 1], [y - bar_of[1], y + bar_of[1]])
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
        bars = sorted(
            points(bar).tolist() for bar in axes.lines if len(points(bar)) == 2 and bar.get_alpha() == BAND_ALPHA
        )
        for place, (bar, seeds) in enumerate(zip(bars, MEASURED.values(), strict=True)):
            interval = stats.ttest_1samp([pair[gate] for pair in seeds], 0.0).confidence_interval(0.95)
            np.testing.assert_allclose(bar, [[place, interval.low], [place, interval.high]])
        np.testing.assert_allclose(points(line), np.stack([np.arange(3), means], axis=1))
        assert [[0.0, target], [1.0, target]] in [points(line).tolist() for line in axes.lines]
        marks = [line for line in axes.lines if line.get_marker() == "o"]
        met = [value > target if gate == 0 else value < target for value in means]
        assert [mark.get_markerfacecolor() == COLOURS[0] for mark in marks] == met
        assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "5", "10"]
        assert axes.get_xlim() == (-0.5, 2.5)
    paper = Paper(figure, tmp_path)
    paper.check(shown["r2 > 0.5"], 1.0, 0.62, COLOURS[0])
    paper.check(shown["r2 > 0.5"], 2.0, 0.35, "white")  # hollow: below its target
    paper.check(shown["r2 > 0.5"], 0.5, (0.75 + 0.62) / 2, COLOURS[0])
    band = BAND_ALPHA * np.array(to_rgb(COLOURS[0])) + 1 - BAND_ALPHA
    paper.check(shown["dcor < 0.4"], 0.0, 0.56, band)
    paper.check(shown["dcor < 0.4"], 0.0, 0.60, 0.45 * np.array(to_rgb(MUTED)) + 0.55 * band)


def test_arrows_mark_where_an_interval_leaves_its_panel() -> None:
    """Of two seeds, a 95 % interval is 25 times as long as its standard error."""
    found = comparison()
    (cohort,) = found.cohorts
    axes = panels(draw_effect(cohort.effects[0], cohort, found.gates))["r2 > 0.5"]
    low, high = axes.get_ylim()
    expected = set()
    for place, seeds in enumerate(MEASURED.values()):
        interval = stats.ttest_1samp([pair[0] for pair in seeds], 0.0).confidence_interval(0.95)
        expected |= {(place, low, "v")} if interval.low < low else set()
        expected |= {(place, high, "^")} if interval.high > high else set()
    assert len(expected) == 2, "the other ends are in view"
    arrows = [line for line in axes.lines if line.get_marker() in ("v", "^")]
    assert {(*points(line)[0].tolist(), line.get_marker()) for line in arrows} == expected
    (axes,) = draw_trade_offs(cohort, trade_offs(cohort, found.gates)).axes
    assert {line.get_marker() for line in axes.lines} >= {"<", ">", "v", "^"}


def test_titles_of_an_effect_stay_on_the_paper() -> None:
    name = "decoder_reads_residual"
    gates = dict.fromkeys(("a", "b", "c", name), (">", 1.05))
    runs = [
        tracked({"loss.lambda_dcor": weight, "seed": 0}, dict.fromkeys(gates, 1.0 + weight), gates) for weight in (1, 2)
    ]
    found = compare(runs, ComparisonSettings())
    (cohort,) = found.cohorts
    figure = draw_effect(cohort.effects[0], cohort, found.gates)
    last = panels(figure)[f"{name}\n> 1.05"]
    (title,) = [text for text in last.findobj(Text) if text.get_text().startswith(name)]
    assert title.get_window_extent().x1 < figure.bbox.x1


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


def test_bars_of_single_runs_are_their_intervals_over_patients() -> None:
    def one(weight: int, r2: tuple[float, float, float]) -> TrackedRun:
        run = tracked({"loss.lambda_dcor": weight}, {"r2": r2[1], "dcor": 0.1 * weight}, FEW)
        return replace(run, gates={**run.gates, "r2": replace(run.gates["r2"], interval=(r2[0], r2[2]))})

    found = compare([one(1, (0.5, 0.6, 0.75)), one(2, (0.7, 0.65, 0.9))], ComparisonSettings())
    (axes,) = draw_trade_offs(found.cohorts[0], [(found.gates[0], found.gates[1])]).axes
    bars = [container.lines[2] for container in axes.containers if isinstance(container, ErrorbarContainer)]
    assert all(len(bar) == 1 for bar in bars), "dcor has no interval"
    shown = sorted(across.get_segments()[0][:, 0].tolist() for (across,) in bars)
    np.testing.assert_allclose(shown, [[0.5, 0.75], [0.65, 0.9]])  # the second does not contain its value


def test_parallel_coordinates() -> None:
    found = comparison()
    (cohort,) = found.cohorts
    key, r2, dcor = coordinates(cohort, found.keys, found.gates)
    assert [axis.head for axis in (key, r2, dcor)] == ["lambda_dcor", "r2\n> 0.5", "dcor\n< 0.4"]
    weights = [float(one.values["loss.lambda_dcor"]) for one in cohort.configurations]
    assert weights == [5.0, 0.0, 10.0]
    np.testing.assert_allclose(key.places, [0.5, 0.0, 1.0], atol=0.025)  # they fan out around their value
    assert [text for _, text in key.ticks] == ["0", "5", "10"]
    np.testing.assert_allclose(r2.places, [(0.62 - 0.35) / 0.4, 1.0, 0.0])
    np.testing.assert_allclose(dcor.places, [1.0, 0.0, (0.65 - 0.45) / (0.65 - 0.32)])  # smaller is up
    assert r2.target == pytest.approx((0.5 - 0.35) / 0.4)
    assert dcor.target == pytest.approx((0.65 - 0.4) / (0.65 - 0.32))
    (axes,) = draw_parallel_coordinates(cohort, found.keys, found.gates).axes
    (best,) = [line for line in axes.lines if line.get_color() == COLOURS[1]]
    np.testing.assert_allclose(points(best), [[0, key.places[0]], [1, r2.places[0]], [2, dcor.places[0]]])
    (others,) = [lines for lines in axes.collections if isinstance(lines, LineCollection)]
    assert len(others.get_segments()) == 2
    assert parallel_words(cohort, found.keys, found.gates) == []


def test_parallel_coordinates_of_many_configurations_are_some_of_them() -> None:
    runs = [
        tracked({"trainer.learning_rate": 10 ** (-number / 50), "seed": 0}, {"r2": 0.001 * number, "dcor": 0.1}, FEW)
        for number in range(201)
    ]
    found = compare(runs, ComparisonSettings())
    (cohort,) = found.cohorts
    rate, r2, _ = coordinates(cohort, found.keys, found.gates)
    assert len(rate.places) == MOST_LINES == 200
    assert (r2.places[0], r2.places[-1]) == (1.0, 0.0), "the best and the worst are among them"
    np.testing.assert_allclose(rate.places, 1.0 - r2.places, atol=1e-12)  # on a logarithmic scale
    assert [text for _, text in rate.ticks] == ["0.0001", "0.001", "0.01", "0.1", "1"]
    assert parallel_words(cohort, found.keys, found.gates) == [
        "Lines: 200 of 201 configurations, evenly along the order of merit."
    ]
    draw_parallel_coordinates(cohort, found.keys, found.gates)


def test_a_configuration_without_a_value_breaks_its_line() -> None:
    runs = [
        tracked({"decoder.name": name, "seed": 0}, {"r2": r2, "dcor": 0.1}, FEW)
        for name, r2 in (("sbd", 0.8), ("resize", None), ("mlp", 0.6))
    ]
    found = compare(runs, ComparisonSettings())
    decoder, *gates = coordinates(found.cohorts[0], found.keys, found.gates)
    assert [text for _, text in decoder.ticks] == ["mlp", "resize", "sbd"]
    (r2,) = [axis for axis in gates if axis.head.startswith("r2")]
    np.testing.assert_allclose(np.sort(r2.places), [0.0, 1.0, np.nan])
    draw_parallel_coordinates(found.cohorts[0], found.keys, found.gates)


def test_parallel_coordinates_do_not_magnify_rounding() -> None:
    runs = [
        tracked({"loss.lambda_dcor": weight, "seed": 0}, {"r2": 0.7 + 1e-7 * weight, "dcor": 0.1 * weight}, FEW)
        for weight in (1, 2)
    ]
    found = compare(runs, ComparisonSettings())
    _, r2, dcor = coordinates(found.cohorts[0], found.keys, found.gates)
    assert r2.ticks == [(0.5, "0.700")]
    np.testing.assert_allclose(r2.places, [0.5, 0.5])
    np.testing.assert_allclose(sorted(dcor.places), [0.0, 1.0])


def test_importance_as_drawn() -> None:
    shares = {"r2": {"a.first": 0.2, "b.second": 0.5}, "dcor": {"a.first": 0.9, "b.second": 0.0}}
    figure = draw_importance(Importance(shares, 9, ()))
    for title, expected in (("r2", [0.2, 0.5, 0.3]), ("dcor", [0.9, 0.0, 0.1])):
        axes = panels(figure)[title]
        assert [bar.get_width() for bar in axes.patches] == pytest.approx(expected)  # type: ignore[attr-defined]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a.first", "b.second", "together"]
