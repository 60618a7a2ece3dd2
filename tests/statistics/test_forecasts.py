"""Scores against quadrature and scoringrules; conformal bounds against counting, MAPIE and simulation."""

import math

import numpy as np
import pytest
from late import Late
from mapie.regression import SplitConformalRegressor
from scipy.integrate import quad
from scipy.stats import binomtest, norm
from sklearn.linear_model import LinearRegression

from menvae.statistics.forecasts import (
    binomial_interval,
    conformal_bound,
    conformal_rank,
    crps_normal,
    exceedance,
    fewest_scores,
    interval_score,
    jackknife_plus,
)

scoringrules = Late("scoringrules")


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


def test_scores_are_those_of_scoringrules() -> None:
    generator = np.random.default_rng(3)
    mean, value = generator.normal(9.0, 1.0, (2, 200))
    sd = generator.gamma(2.0, 0.2, 200)
    np.testing.assert_allclose(crps_normal(mean, sd, value), scoringrules.crps_normal(value, mean, sd), rtol=1e-12)
    for level in (0.5, 0.8, 0.95):
        reach = sd * norm.ppf(0.5 + 0.5 * level)
        expected = scoringrules.interval_score(value, mean - reach, mean + reach, 1.0 - level)
        np.testing.assert_allclose(interval_score(mean - reach, mean + reach, value, level), expected, rtol=1e-12)


@pytest.mark.parametrize(("successes", "trials"), [(0, 7), (7, 7), (3, 20), (31, 33)])
def test_binomial_intervals_are_those_of_scipy(successes: int, trials: int) -> None:
    expected = binomtest(successes, trials).proportion_ci(method="exact")
    np.testing.assert_allclose(binomial_interval(successes, trials), (expected.low, expected.high), atol=1e-12)


def test_bounds_of_shares_of_patients_hold() -> None:
    """Each patient is covered at a share of his visits, which depend on each other; the mean share is 0.9."""
    generator = np.random.default_rng(4)
    shares = np.clip(generator.beta(4.5, 0.5, (1000, 25)), 0.0, 1.0)
    bounds = [binomial_interval(float(row.sum()), 25) for row in shares]
    assert np.mean([low <= 0.9 <= high for low, high in bounds]) > 0.95


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


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.95, 0.975, 0.99])
def test_the_fewest_scores_are_just_enough(level: float) -> None:
    fewest = fewest_scores(level)
    assert conformal_rank(fewest, level) == fewest
    assert conformal_rank(fewest - 1, level) is None


@pytest.mark.parametrize(("num", "level"), [(25, 0.95), (40, 0.9), (101, 0.8)])
def test_a_bound_is_that_of_mapie(num: int, level: float) -> None:
    """Not at (num + 1) level = num, such as 9 scores at 90 %, where version 1.6.0 refuses."""
    generator = np.random.default_rng(num)
    inputs, value = generator.normal(size=(num + 30, 2)), generator.normal(size=num + 30)
    regression = LinearRegression().fit(inputs[:30], value[:30])
    theirs = SplitConformalRegressor(regression, confidence_level=level, prefit=True)
    theirs.conformalize(inputs[30:], value[30:])
    mean, ends = theirs.predict_interval(inputs[:5])
    errors = np.abs(value[30:] - regression.predict(inputs[30:]))
    np.testing.assert_allclose(ends[:, 1, 0] - mean, conformal_bound(errors, level), rtol=1e-12)


def test_several_scores_of_a_patient_have_the_weight_of_one() -> None:
    """Of 3 patients and a new one, each has the weight 1/4; b's two scores have 1/8 each."""
    scores, patients = np.array([5.0, 1.0, 2.0, 4.0]), ["a", "b", "b", "c"]
    found = [conformal_bound(scores, level, patients) for level in (0.125, 0.25, 0.5, 0.51, 0.75, 0.76)]
    assert found == [1.0, 2.0, 4.0, 5.0, 5.0, math.inf]
    repeated = np.repeat(np.arange(1.0, 20.0), 3)
    assert conformal_bound(repeated, 0.95, np.repeat(np.arange(19), 3).tolist()) == 19.0
    assert conformal_bound(repeated[:-3], 0.95, np.repeat(np.arange(18), 3).tolist()) == math.inf


def test_bounds_hold_for_patients_with_different_numbers_of_visits() -> None:
    """Patients with many visits have larger errors: the mean over new patients of what is covered keeps its level."""
    generator = np.random.default_rng(5)
    held = []
    for _ in range(1000):
        counts = generator.choice([1, 8], 40)
        owners = np.repeat(np.arange(40), counts)
        errors = np.abs(generator.normal(size=len(owners))) * (1.0 + counts[owners])
        known = owners < 39
        bound = conformal_bound(errors[known], 0.9, owners[known].tolist())
        held.append(np.mean(errors[~known] <= bound))
    assert abs(np.mean(held) - 0.9) < 4.0 * np.std(held) / math.sqrt(1000) + 1.0 / 40


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
