"""Fronts against brute force, hypervolumes against areas by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from menvae.comparison.pareto import Objective, find_front, hypervolume, nondominated, range_share

GRID = st.integers(-3, 3).map(float)  # few values: ties and duplicates are frequent


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[list[float]], list[bool]]:
    size = draw(st.integers(1, 4))
    points = draw(st.lists(st.lists(GRID, min_size=size, max_size=size), min_size=1, max_size=12))
    return points, draw(st.lists(st.booleans(), min_size=size, max_size=size))


def dominates(one: list[float], other: list[float], larger: list[bool]) -> bool:
    gains = [a - b if is_larger else b - a for a, b, is_larger in zip(one, other, larger, strict=True)]
    return min(gains) >= 0 and max(gains) > 0


def area(points: list[tuple[float, float]], reference: tuple[float, float]) -> float:
    """Area that points dominate, both coordinates to be large: a staircase, summed from the right."""
    total, height = 0.0, reference[1]
    for x, y in sorted(points, reverse=True):
        if x > reference[0] and y > height:
            total += (x - reference[0]) * (y - height)
            height = y
    return total


@given(problems())
@settings(max_examples=300, deadline=None)
def test_front_is_what_nothing_dominates(problem: tuple[list[list[float]], list[bool]]) -> None:
    points, larger = problem
    expected = [not any(dominates(other, one, larger) for other in points) for one in points]
    assert nondominated(np.array(points), larger) == expected


@given(st.lists(st.tuples(GRID, GRID), min_size=1, max_size=12), st.tuples(GRID, GRID), st.booleans(), st.booleans())
@settings(max_examples=300, deadline=None)
def test_hypervolume_in_two_dimensions(
    points: list[tuple[float, float]], reference: tuple[float, float], flip_x: bool, flip_y: bool
) -> None:
    sign = np.array([-1.0 if flip_x else 1.0, -1.0 if flip_y else 1.0])
    found = hypervolume(np.array(points) * sign, (np.array(reference) * sign).tolist(), [not flip_x, not flip_y])
    assert found == pytest.approx(area(points, reference))


def test_hypervolume_by_hand() -> None:
    # Accuracy is to be large and dependence small; the targets are 0.5 and 0.4: 0.3 x 0.1 + 0.1 x 0.2 more of height.
    points = np.array([[0.8, 0.3], [0.6, 0.1], [0.4, 0.0], [0.9, 0.5]])
    assert hypervolume(points, [0.5, 0.4], [True, False]) == pytest.approx(0.3 * 0.1 + 0.1 * 0.2)
    assert hypervolume(points[2:], [0.5, 0.4], [True, False]) == 0.0


@given(st.lists(st.tuples(GRID, GRID), min_size=2, max_size=8), st.floats(0.1, 10.0), st.floats(-5.0, 5.0))
@settings(max_examples=100, deadline=None)
def test_share_does_not_depend_on_units(points: list[tuple[float, float]], scale: float, shift: float) -> None:
    array = np.array(points)
    share, constant, _ = range_share(array, [True, False])
    scaled, also_constant, _ = range_share(array * [scale, 1.0] + [shift, 0.0], [True, False])
    assert (share is None) == (scaled is None)
    assert constant == also_constant
    if share is not None:
        assert share == pytest.approx(scaled)
        assert 0 < share <= 1 + 1e-12


def test_share_of_one_that_is_best_in_everything_is_1() -> None:
    share, constant, reference = range_share(np.array([[1.0, 0.2, 7.0], [0.5, 0.4, 7.0]]), [True, False, True])
    assert share == pytest.approx(1.0)
    assert constant == [2]
    assert reference == pytest.approx({0: 0.5 - 0.05, 1: 0.4 + 0.02})


GATES = [Objective("r2", 0.5, True), Objective("dcor", 0.4, False), Objective("never", 1.0, True)]


def test_a_gate_without_value_excludes_a_configuration_and_one_that_nobody_has_is_left_out() -> None:
    values: dict[int, dict[str, float | None]] = {
        1: {"r2": 0.8, "dcor": 0.3, "never": None},
        2: {"r2": 0.9, "dcor": None, "never": None},
        3: {"r2": 0.7, "dcor": 0.35, "never": None},
    }
    front = find_front(values, GATES)
    assert front.objectives == ("r2", "dcor")
    assert front.unmeasured == ("never",)
    assert front.excluded == {2: ("dcor",)}
    assert front.members == (1,)
    assert front.hypervolume == pytest.approx(0.3 * 0.1)


@pytest.mark.parametrize(
    "values", [{}, {1: {"r2": None}}, {1: {"r2": 0.8, "dcor": None}, 2: {"r2": None, "dcor": 0.1}}]
)
def test_nothing_to_place(values: dict[int, dict[str, float | None]]) -> None:
    front = find_front(values, GATES)
    assert front.members == ()
    assert (front.hypervolume, front.range_share) == (0.0, None)


def test_equal_configurations_are_both_on_the_front() -> None:
    values: dict[int, dict[str, float | None]] = {number: {"r2": 0.8, "dcor": 0.3} for number in (1, 2)}
    front = find_front(values, GATES)
    assert front.members == (1, 2)
    assert front.range_share is None
    assert front.constant == ("r2", "dcor")
