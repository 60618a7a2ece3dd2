"""Intervals against scipy, closed forms and their coverage; the jackknife against the standard error of a mean."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
import torch

from menvae.statistics import bootstrap
from menvae.statistics.bootstrap import (
    Floats,
    Statistics,
    bootstrap_intervals,
    bootstrap_intervals_of_means,
    bootstrap_tests_of_means,
    jackknife_intervals,
)
from menvae.statistics.distance_correlation import u_distance_correlation_sqr


def skewed(num: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).exponential(size=num)


def visits(num_patients: int, num_visits: int, seed: int = 0) -> tuple[Floats, list[int]]:
    """Values that a patient's visits share in part, patients interleaved."""
    random = np.random.default_rng(seed)
    values = random.normal(size=num_patients) + 0.1 * random.normal(size=(num_visits, num_patients))
    return values.ravel(), list(range(num_patients)) * num_visits


def mean_of(values: Floats) -> Statistics:
    return lambda rows: {"mean": float(values[rows].mean())}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("num", [15, 60])
@pytest.mark.parametrize("statistic", [np.mean, np.var, scipy.stats.skew], ids=["mean", "variance", "skewness"])
def test_independent_rows_agree_with_scipy(statistic: Callable[..., float], num: int, seed: int) -> None:
    values = skewed(num, seed)
    random = np.random.default_rng(seed)
    options = {"n_resamples": 1000, "method": "BCa", "rng": random, "vectorized": False}
    expected = scipy.stats.bootstrap((values,), statistic, **options).confidence_interval
    found = bootstrap_intervals(lambda rows: {"it": float(statistic(values[rows]))}, range(num), seed=seed)["it"]
    assert (found.value, found.n) == (float(statistic(values)), num)
    assert (found.low, found.high) == pytest.approx(expected, rel=1e-12)


def test_other_confidence_agrees_with_scipy() -> None:
    values = skewed(30)
    options = {"n_resamples": 400, "method": "BCa", "rng": np.random.default_rng(2), "confidence_level": 0.8}
    expected = scipy.stats.bootstrap((values,), np.mean, **options).confidence_interval
    found = bootstrap_intervals(mean_of(values), range(30), num_replicates=400, confidence=0.8, seed=2)["mean"]
    assert (found.low, found.high) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("most", [1, 35, 1 << 22], ids=["single", "blocks_of_7", "all_at_once"])
def test_functions_of_means_agree_with_the_loop(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """For patients with 1 to 4 visits; the R2 of each resample comes from its definition."""
    monkeypatch.setattr(bootstrap, "_MOST_MEANS", most)
    random = np.random.default_rng(0)
    patients = [patient for patient in range(30) for _ in range(1 + patient % 4)]
    x, y = random.normal(size=(2, len(patients)))
    y = y + x
    observed = (random.random(len(patients)) < 0.8).astype(float)

    def by_loop(rows: np.ndarray) -> dict[str, float]:
        seen = rows[observed[rows] == 1.0]
        rest = float(((y[rows] - x[rows]) ** 2).sum())
        return {"r2": 1.0 - rest / float(((y[rows] - y[rows].mean()) ** 2).sum()), "seen": float(y[seen].mean())}

    def of_means(means: Floats) -> dict[str, Floats]:
        return {"r2": 1.0 - means[:, 0] / (means[:, 1] - means[:, 2] ** 2), "seen": means[:, 3] / means[:, 4]}

    columns = np.stack([(y - x) ** 2, y**2, y, observed * y, observed], axis=1)
    expected = bootstrap_intervals(by_loop, patients, seed=4)
    found = bootstrap_intervals_of_means(of_means, columns, patients, seed=4)
    for name in ("r2", "seen"):
        numbers = (expected[name].value, expected[name].low, expected[name].high)
        assert (found[name].value, found[name].low, found[name].high) == pytest.approx(numbers, abs=1e-10)
        assert found[name].n == 30


def coverage(draw: Callable[[int], tuple[Floats, list[int]]], truth: float, times: int) -> float:
    held = 0
    for seed in range(times):
        values, patients = draw(seed)
        found = bootstrap_intervals_of_means(
            lambda means: {"mean": means[:, 0]}, values[:, None], patients, num_replicates=400, seed=seed
        )["mean"]
        assert found.low is not None
        assert found.high is not None
        held += found.low <= truth <= found.high
    return held / times


def test_coverage_is_95_percent() -> None:
    """Of the mean of an exponential distribution, 1, and of 0 where each patient has 5 visits that are alike."""
    assert 0.92 <= coverage(lambda seed: (skewed(60, seed), list(range(60))), 1.0, 800) <= 0.97
    assert 0.92 <= coverage(lambda seed: visits(60, 5, seed), 0.0, 800) <= 0.97


def test_intervals_that_ignore_patients_are_too_narrow() -> None:
    """The two tests above can fail: with visits taken for patients the interval is sqrt 5 times too short."""
    apart = coverage(lambda seed: (visits(60, 5, seed)[0], list(range(300))), 0.0, 200)
    assert apart < 0.75  # 2 Phi(1.96 / sqrt 5) - 1 = .62


def test_mean_of_visits_is_as_sure_as_the_mean_of_patients() -> None:
    """Closed form for equal numbers of visits: sd of the patients' means / sqrt(P), a normal quantile to each side."""
    values, patients = visits(80, 5)
    of_patients = values.reshape(5, 80).mean(axis=0)
    found = bootstrap_intervals(mean_of(values), patients, num_replicates=4000)["mean"]
    reach = 1.96 * of_patients.std() / math.sqrt(80)
    assert (found.low, found.high) == pytest.approx((values.mean() - reach, values.mean() + reach), abs=0.1 * reach)
    alone = bootstrap_intervals(mean_of(of_patients), range(80), num_replicates=4000)["mean"]
    assert (found.low, found.high) == pytest.approx((alone.low, alone.high), abs=1e-12)


def p_value(values: Floats, num_replicates: int = 1000, seed: int = 0) -> float | None:
    def of_means(means: Floats) -> dict[str, Floats]:
        return {"mean": means[:, 0]}

    patients = range(len(values))
    found = bootstrap_tests_of_means(of_means, values[:, None], patients, num_replicates=num_replicates, seed=seed)
    return found["mean"].p_value


@pytest.mark.parametrize("shift", [0.7, 0.8, 1.1, 1.2])
def test_an_interval_of_scipy_with_the_confidence_of_the_p_value_ends_at_0(shift: float) -> None:
    values = skewed(40) - shift
    found = p_value(values, 5000)
    assert found is not None
    options = {"n_resamples": 5000, "method": "BCa", "rng": np.random.default_rng(0), "confidence_level": 1.0 - found}
    interval = scipy.stats.bootstrap((values,), np.mean, **options).confidence_interval
    assert min(map(abs, interval)) < 0.05 * scipy.stats.sem(values)


def test_p_values_are_uniform_without_a_difference() -> None:
    random = np.random.default_rng(5)
    found = np.array([p_value(random.normal(size=40), 400, seed) for seed in range(600)])
    for level in (0.05, 0.2, 0.5):
        # a share of 600, and the bootstrap's own error in 40 patients
        assert np.mean(found < level) == pytest.approx(level, abs=3.0 * math.sqrt(level * (1 - level) / 600) + 0.02)


def test_p_values_are_never_0_and_need_an_interval() -> None:
    far = p_value(skewed(40) + 100.0)
    assert far is not None
    assert 0.0 < far < 0.01
    assert p_value(skewed(9)) is None, "too few patients"
    assert p_value(np.zeros(40)) is None, "nothing varies"


@pytest.mark.parametrize("num", [10, 40, 100])
def test_jackknife_of_a_mean_is_its_standard_error(num: int) -> None:
    values = skewed(num)
    found = jackknife_intervals(mean_of(values), range(num))["mean"]
    reach = scipy.stats.norm.ppf(0.975) * scipy.stats.sem(values)
    assert (found.low, found.high) == pytest.approx((values.mean() - reach, values.mean() + reach), abs=1e-12)


@pytest.mark.parametrize("num", [400, 437])
def test_jackknife_of_groups_is_that_of_groups_means(num: int) -> None:
    """In expectation over the deal; 437 patients make groups of 4 and 5."""
    values = skewed(num)
    squares = [
        (found.high - found.low) ** 2
        for seed in range(200)
        if (found := jackknife_intervals(mean_of(values), range(num), seed=seed)["mean"])
    ]
    expected = (2.0 * scipy.stats.norm.ppf(0.975) * scipy.stats.sem(values)) ** 2
    # a variance with 99 degrees of freedom, averaged over 200 deals
    assert np.mean(squares) == pytest.approx(expected, rel=4.0 * math.sqrt(2.0 / 99.0 / 200.0))


def test_jackknife_keeps_visits_together_and_repeats_no_row() -> None:
    values, patients = visits(30, 4)
    seen: list[np.ndarray] = []

    def statistic(rows: np.ndarray) -> dict[str, float]:
        seen.append(rows)
        return {"mean": float(values[rows].mean())}

    found = jackknife_intervals(statistic, patients)["mean"]
    of_patients = values.reshape(4, 30).mean(axis=0)
    reach = scipy.stats.norm.ppf(0.975) * scipy.stats.sem(of_patients)
    assert (found.value, found.n) == (values.mean(), 30)
    assert found.high - found.value == pytest.approx(reach, abs=1e-12)
    for rows in seen[1:]:
        assert len(set(rows.tolist())) == len(rows) == 29 * 4
        left = set(range(120)) - set(rows.tolist())
        assert len({patients[row] for row in left}) == 1


def test_jackknife_of_a_distance_correlation_covers_its_limit() -> None:
    """Distance correlation of normal variables with correlation r (Szekely, Rizzo & Bakirov 2007, theorem 7)."""
    r, times, num = 0.7, 150, 120

    def part(value: float) -> float:
        return value * math.asin(value) + math.sqrt(1.0 - value**2) - value * math.asin(value / 2.0)

    def g(value: float) -> float:
        return part(value) - math.sqrt(4.0 - value**2) + 1.0

    truth = g(r) / g(1.0)
    held = 0
    for seed in range(times):
        x, e = np.random.default_rng(seed).normal(size=(2, num, 1))
        both = torch.from_numpy(np.concatenate([x, r * x + math.sqrt(1.0 - r * r) * e], axis=1))
        found = jackknife_intervals(
            lambda rows, both=both: {"it": u_distance_correlation_sqr(both[rows, :1], both[rows, 1:]).item()},
            range(num),
            most_groups=40,
        )["it"]
        held += found.low <= truth <= found.high
    assert 0.88 <= held / times <= 0.99


def test_same_seed_same_interval() -> None:
    values = skewed(25)
    found = [bootstrap_intervals(mean_of(values), range(25), seed=seed)["mean"] for seed in (5, 5, 6)]
    assert found[0] == found[1] != found[2]


Intervals = Callable[[Statistics, list[int]], dict]
both_ways = pytest.mark.parametrize("intervals", [bootstrap_intervals, jackknife_intervals])


@both_ways
def test_9_patients_are_too_few(intervals: Intervals) -> None:
    values, patients = visits(9, 3)
    found = intervals(mean_of(values), patients)["mean"]
    assert (found.value, found.low, found.high, found.n) == (values.mean(), None, None, 9)
    assert found.reason == "an interval needs at least 10 patients; there are 9"


@both_ways
@pytest.mark.parametrize("nothing", [None, math.nan, math.inf])
def test_undefined_value(intervals: Intervals, nothing: float | None) -> None:
    found = intervals(lambda rows: {"it": nothing}, list(range(12)))["it"]
    assert (found.value, found.low, found.reason) == (None, None, "undefined for these 12 patients")


@both_ways
def test_equal_values_have_no_interval(intervals: Intervals) -> None:
    found = intervals(mean_of(np.full(30, 0.1)), list(range(30)))["mean"]
    assert found.value == pytest.approx(0.1)
    assert found.low is None
    assert "30 patients do not vary enough" in found.reason


@both_ways
def test_value_that_rests_on_one_patient(intervals: Intervals) -> None:
    """Only patient 3 has the feature; the other statistic is not affected."""

    def statistic(rows: np.ndarray) -> dict[str, float | None]:
        return {"of 3": 1.0 + len(rows) if 3 in rows else None, "mean": float(np.mean(rows))}

    found = intervals(statistic, list(range(20)))
    assert found["of 3"].low is None
    assert "undefined" in found["of 3"].reason
    assert found["mean"].low is not None


def test_few_undefined_resamples_are_left_out() -> None:
    """A resample of 20 without the patients 0, 1 and 2 has a probability of (17 / 20)^20 = .039."""

    def statistic(rows: np.ndarray) -> dict[str, float | None]:
        return {"it": float(rows.mean()) if {0, 1, 2} & set(rows.tolist()) else None}

    found = bootstrap_intervals(statistic, list(range(20)))["it"]
    assert found.low is not None
    assert found.high is not None
    assert found.low < 9.5 < found.high


def test_value_outside_its_resamples() -> None:
    found = bootstrap_intervals(lambda rows: {"it": float(len(set(rows.tolist())))}, list(range(40)))["it"]
    assert (found.value, found.low) == (40.0, None)
    assert "outside all 1000 resamples of 40 patients" in found.reason


def test_undefined_functions_of_means() -> None:
    """A ratio to a mean that is 0 in some resamples, and to one that is 0."""
    columns = np.zeros((20, 2))
    columns[:3, 0] = 1.0
    found = bootstrap_intervals_of_means(
        lambda means: {"a": 1.0 / means[:, 0], "b": means[:, 0] / means[:, 1]}, columns, list(range(20))
    )
    assert found["a"].value == pytest.approx(20.0 / 3.0)
    assert found["a"].low is not None
    assert (found["b"].value, found["b"].reason) == (None, "undefined for these 20 patients")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="must be finite, got 1 that are not"):
        bootstrap_intervals_of_means(lambda means: {"m": means[:, 0]}, np.array([[1.0], [bad]]), [0, 1])


@pytest.mark.parametrize("shape", [(12,), (11, 1)])
def test_values_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="one row for each of 12 rows, got shape"):
        bootstrap_intervals_of_means(lambda means: {"m": means[:, 0]}, np.zeros(shape), range(12))


def test_bad_settings_are_refused() -> None:
    for options in ({"num_replicates": 99}, {"confidence": 1.0}, {"confidence": 0.0}):
        with pytest.raises(ValueError, match=f"{next(iter(options))}="):
            bootstrap_intervals(mean_of(np.zeros(3)), range(3), **options)
    with pytest.raises(ValueError, match="most_groups=9"):
        jackknife_intervals(mean_of(np.zeros(3)), range(3), most_groups=9)
    for intervals in (bootstrap_intervals, jackknife_intervals):
        with pytest.raises(ValueError, match="there are no rows"):
            intervals(mean_of(np.zeros(0)), [])


def test_resamples_have_as_many_patients_with_all_visits() -> None:
    patients = [0, 0, 0, *range(1, 12)]
    seen: list[np.ndarray] = []

    def statistic(rows: np.ndarray) -> dict[str, float]:
        seen.append(np.bincount(rows, minlength=len(patients)))
        return {"it": float(rows.mean())}

    bootstrap_intervals(statistic, patients, num_replicates=200)
    for times in seen[1:201]:
        assert times[0] == times[1] == times[2]
        assert times[2:].sum() == 12
    assert [times[2:].sum() for times in seen[201:]] == [11] * 12
