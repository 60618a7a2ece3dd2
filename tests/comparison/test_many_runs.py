"""Comparisons of more runs than anybody reads."""

from __future__ import annotations

import time
from io import StringIO
from pathlib import Path

import moocore
import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer
from rich.console import Console
from stores import TARGETS, tracked

from menvae.comparison.compare import MOST_VALUES, ComparisonSettings, compare
from menvae.comparison.export import write_configurations, write_runs
from menvae.comparison.pareto import hypervolume, nondominated
from menvae.comparison.pictures import MOST_BARS, draw_trade_offs, trade_offs
from menvae.comparison.results import Comparison
from menvae.comparison.table import answers
from menvae.comparison.words import MOST_ROWS, MOST_SENTENCES, best_of, front_words, shortened

WEIGHTS = 600


def _many(num: int = WEIGHTS, missing: int = 0) -> Comparison:
    """Compare runs with as many weights as runs; the first ones lack a gate."""
    random = np.random.default_rng(0)
    runs = []
    for number in range(num):
        values = {name: float(random.normal()) for name in TARGETS}
        without = {"vol_r2": None} if number < missing else {}
        params = {"loss.lambda_dcor": number / 64, "model.partitions.vol": (8, 16)[number % 2], "seed": 1}
        runs.append(tracked(params, {**values, **without}))
    return compare(runs, ComparisonSettings())


def test_tables_show_the_first_and_files_have_all(tmp_path: Path) -> None:
    comparison = _many()
    output = StringIO()
    console = Console(file=output, width=400)
    for answer in answers(comparison, []):
        console.print(answer)
    text = output.getvalue()
    assert f"Tables show the first {MOST_ROWS} of {WEIGHTS} configurations" in text
    assert [row.number for row in shortened(comparison).rows] == list(range(1, MOST_ROWS + 1))
    assert f"The effect of a key with more than {MOST_VALUES} values is not shown: loss.lambda_dcor ({WEIGHTS}" in text
    assert [effect.key.name for effect in comparison.cohorts[0].effects] == ["model.partitions.vol"]
    for write in (write_runs, write_configurations):
        assert len(write(comparison, tmp_path / "table.csv").read_text().splitlines()) == WEIGHTS + 1


def test_the_best_of_a_gate_is_the_best_of_all() -> None:
    comparison = _many()
    (cohort,) = comparison.cohorts
    for gate in comparison.gates:
        means = {one.number: one.gates[gate.name].mean or 0.0 for one in cohort.configurations}
        best = (max if gate.larger_is_better else min)(means, key=lambda number: means[number])
        assert best_of(cohort, gate) == {best}


def test_configurations_without_a_place_are_counted() -> None:
    few, many = (
        [sentence for sentence in front_words(_many(40, missing).cohorts[0]) if "cannot be placed" in sentence]
        for missing in (MOST_SENTENCES, MOST_SENTENCES + 1)
    )
    assert len(few) == MOST_SENTENCES
    assert len(many) == 1
    assert many[0].startswith(f"{MOST_SENTENCES + 1} configurations")


def test_trade_offs_of_many_are_dots() -> None:
    comparison = _many()
    (cohort,) = comparison.cohorts
    assert len(cohort.configurations) > MOST_BARS
    figure = draw_trade_offs(cohort, trade_offs(cohort, comparison.gates)[:1])
    (axes,) = figure.axes
    assert not [container for container in axes.containers if isinstance(container, ErrorbarContainer)]
    others, front = axes.collections[-2:]
    assert len(front.get_offsets()) == len(cohort.front.members)
    assert len(others.get_offsets()) == WEIGHTS - len(cohort.front.members)


@pytest.mark.parametrize("num_gates", [6, 7])
def test_the_volume_of_a_large_front_is_nearly_exact(num_gates: int) -> None:
    """Points on a sphere: none dominates another."""
    random = np.random.default_rng(1)
    directions = np.abs(random.normal(size=(500 if num_gates == 6 else 150, num_gates)))
    points = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    larger = [True] * num_gates
    assert all(nondominated(points, larger))
    exact = moocore.hypervolume(points, ref=[0.0] * num_gates, maximise=True)
    assert hypervolume(points, [0.0] * num_gates, larger) == pytest.approx(exact, rel=0.01)
    worse = np.concatenate([points, 0.5 * points, -points])  # adds nothing
    assert hypervolume(worse, [0.0] * num_gates, larger) == pytest.approx(exact, rel=0.01)
    best = np.concatenate([points, np.ones((1, num_gates))])
    assert hypervolume(best, [0.0] * num_gates, larger) == pytest.approx(1.0), "of a single point: exact"


def test_thousands_of_runs_are_compared_in_seconds() -> None:
    started = time.process_time()
    _many(3000)
    assert time.process_time() - started < 20.0
