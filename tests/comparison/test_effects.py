"""Intervals of effects against SciPy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats
from stores import tracked

from menvae.comparison.compare import ComparisonSettings, compare
from menvae.comparison.results import Effect
from menvae.comparison.tracked_runs import TrackedRun

R2 = {"r2": (">", 0.5)}
VALUES = np.random.default_rng(1).normal(size=(2, 3, 4))
"""R2 of two weights, three sizes, four seeds or folds."""


def grid(replicate: str = "seed", **more: object) -> list[TrackedRun]:
    return [
        tracked(
            {"seed": 0, "loss.lambda_dcor": a, "model.partitions.vol": 2**b, replicate: c, **more},
            {"r2": VALUES[a, b, c]},
            R2,
        )
        for a, b, c in np.ndindex(*VALUES.shape)
    ]


def effect(runs: Sequence[TrackedRun]) -> Effect:
    (cohort,) = compare(runs, ComparisonSettings()).cohorts
    return next(one for one in cohort.effects if one.key.name == "loss.lambda_dcor")


def expected(values: np.ndarray) -> tuple[float, float]:
    interval = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    return float(interval.low), float(interval.high)


def test_of_a_grid_over_seeds_each_averaged_over_the_other_key() -> None:
    found = effect(grid())
    assert (found.balanced, found.intervals_over) == (True, "seeds")
    for a in range(2):
        assert found.intervals[str(a)]["r2"] == pytest.approx(expected(VALUES[a].mean(axis=0)))


def test_of_folds_wider_for_the_training_subjects_they_share() -> None:
    found = effect(grid("data.fold", **{"data.num_folds": 4}))
    assert found.intervals_over == "folds"
    for a in range(2):
        low, high = expected(VALUES[a].mean(axis=0))
        half = (high - low) / 2 * np.sqrt((1 / 4 + 1 / 3) / (1 / 4))  # Nadeau and Bengio: 1/n + tested/trained
        mean = VALUES[a].mean()
        assert found.intervals[str(a)]["r2"] == pytest.approx((mean - half, mean + half))


def test_without_balance_over_configurations() -> None:
    runs = grid()
    found = effect([run for run in runs if run.params["model.partitions.vol"] != "4" or run.seed != "3"][:-1])
    assert (found.balanced, found.intervals_over) == (False, "configurations")
    means = [VALUES[0, 0].mean(), VALUES[0, 1].mean(), VALUES[0, 2, :3].mean()]
    assert found.intervals["0"]["r2"] == pytest.approx(expected(np.array(means)))


def test_a_single_configuration_per_value_has_none() -> None:
    found = effect([run for run in grid() if run.params["model.partitions.vol"] == "1" and run.seed == "0"])
    assert found.intervals == {"0": {"r2": None}, "1": {"r2": None}}
