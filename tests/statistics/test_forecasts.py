"""Scores of forecasts against quadrature and published values, and conformal ranks against counting."""

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import binomtest, norm

from menvae.statistics.forecasts import (
    binomial_interval,
    conformal_bound,
    conformal_rank,
    crps_normal,
    exceedance,
    interval_score,
    jackknife_plus,
)


@pytest.mark.parametrize(("mean", "sd", "value"), [(0.0, 1.0, 0.0), (2.0, 0.3, 1.0), (-1.0, 5.0, 4.0)])
def test_the_ranked_probability_score_is_its_integral(mean: float, sd: float, value: float) -> None:
    below, _ = quad(lambda x: norm.cdf(x, mean, sd) ** 2, -np.inf, value)
    above, _ = quad(lambda x: norm.sf(x, mean, sd) ** 2, value, np.inf)
    found = crps_normal(np.array([mean]), np.array([sd]), np.array([value]))
    np.testing.assert_allclose(found, below + above, rtol=1e-6)


def test_the_true_distribution_has_the_best_scores() -> None:
    values = np.random.default_rng(0).normal(1.0, 2.0, 20_000)
    for score in (
        lambda mean, sd: crps_normal(np.full(20_000, mean), np.full(20_000, sd), values).mean(),
        lambda mean, sd: interval_score(
            np.full(20_000, mean - 1.96 * sd), np.full(20_000, mean + 1.96 * sd), values, 0.95
        ).mean(),
    ):
        best = score(1.0, 2.0)
        assert all(score(mean, sd) > best for mean, sd in [(1.3, 2.0), (0.7, 2.0), (1.0, 1.6), (1.0, 2.5)])


@pytest.mark.parametrize(("successes", "trials"), [(0, 7), (7, 7), (3, 20), (31, 33)])
def test_binomial_intervals_are_those_of_scipy(successes: int, trials: int) -> None:
    expected = binomtest(successes, trials).proportion_ci(method="exact")
    np.testing.assert_allclose(binomial_interval(successes, trials), (expected.low, expected.high), atol=1e-12)


def test_exceedance_is_a_normal_tail() -> None:
    found = exceedance(np.array([1.0]), np.array([2.0]), np.array([3.0]))
    np.testing.assert_allclose(found, norm.sf(1.0))


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.95, 0.975, 0.99])
@pytest.mark.parametrize("num", [1, 9, 10, 19, 20, 39, 99, 100])
def test_a_rank_bounds_with_at_least_the_level_and_the_one_below_with_less(num: int, level: float) -> None:
    written = round(level * 1000)  # of 1000, as integers
    rank = conformal_rank(num, level)
    if rank is None:
        assert num * 1000 < written * (num + 1)
    else:
        assert rank * 1000 >= written * (num + 1) > (rank - 1) * 1000


def test_bounds_hold_as_often_as_they_say() -> None:
    generator = np.random.default_rng(1)
    scores = generator.exponential(size=(4000, 40))
    held = np.mean([row[-1] <= conformal_bound(row[:-1], 0.9) for row in scores])
    assert abs(held - 0.9) < 4 * math.sqrt(0.9 * 0.1 / 4000)
    assert conformal_bound(scores[0, :5], 0.95) == math.inf


def test_the_jackknife_holds_for_a_mean() -> None:
    generator = np.random.default_rng(2)
    held = []
    for row in generator.normal(size=(1500, 30)):
        known, new = row[:-1], row[-1]
        without = (known.sum() - known) / (len(known) - 1)
        low, high = jackknife_plus(without, np.ones(29), np.abs(known - without), 0.9)
        held.append(low <= new <= high)
    assert abs(np.mean(held) - 0.9) < 0.03
    assert jackknife_plus(np.zeros(3), np.ones(3), np.ones(3), 0.9) == (-math.inf, math.inf)
