"""Scores of judged forecasts against averages by hand and scipy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import scipy.stats

from menvae.forecasting.judging import Ends, Judged
from menvae.forecasting.protocols import Task
from menvae.forecasting.scores import (
    HORIZONS,
    calibrations,
    growth_probabilities,
    losses_of,
    paired_differences,
    score,
)
from menvae.growth import Floats, Forecast, Visits


def judged(
    truth: Sequence[float] | Floats,
    mean: Sequence[float] | Floats,
    sd: Sequence[float] | Floats,
    *,
    patients: Sequence[int] | None = None,
    last: Sequence[float] | Floats | None = None,
    years: Sequence[float] | Floats | None = None,
    num_errors: int = 30,
) -> Judged:
    """Forecasts with 95 % intervals of their standard deviation; conformal ones as wide, if there are patients."""
    owners = range(len(truth)) if patients is None else patients
    columns = [np.array(column, dtype=np.float64) for column in (truth, mean, sd)]
    reach = 1.959963984540054 * columns[2]
    normal = Ends(columns[1] - reach, columns[1] + reach)
    never = Ends(np.full(len(truth), -math.inf), np.full(len(truth), math.inf))
    return Judged(
        tasks=[Task(owner, 1, 1 + n) for n, owner in enumerate(owners)],
        truth=columns[0],
        last=np.zeros(len(truth)) if last is None else np.array(last),
        years=np.ones(len(truth)) if years is None else np.array(years),
        mean=columns[1],
        sd=columns[2],
        level=0.95,
        intervals={"normal": normal, "conformal": normal if num_errors >= 19 else never},
        num_errors=num_errors,
        fits={},
    )


def drawn(num: int, seed: int = 0, error: float = 0.3) -> Judged:
    generator = np.random.default_rng(seed)
    mean = generator.normal(9.0, 1.0, num)
    return judged(mean + generator.normal(0.0, error, num), mean, np.full(num, 0.3))


def test_errors_of_volumes_are_in_percent_of_the_true_one() -> None:
    found = losses_of(judged(np.log([1000.0, 2000.0]), np.log([1200.0, 1500.0]), [0.1, 0.1]))
    np.testing.assert_allclose(found["error_percent"], [20.0, 25.0])
    np.testing.assert_allclose(found["error"], np.log([1.2, 4.0 / 3.0]))


def test_each_patient_counts_once() -> None:
    """Patient 0 has three forecasts with errors of 1, 2 and 3 and one covered; patient 1 has one, exact."""
    found = score(judged([1.0, 2.0, 3.0, 0.0], np.zeros(4), np.ones(4), patients=[0, 0, 0, 1]))
    assert (found.num_patients, found.num_forecasts) == (2, 4)
    assert found.estimates["mean_error"].value == pytest.approx(1.0)
    assert found.estimates["coverage/normal"].value == pytest.approx((1.0 / 3.0 + 1.0) / 2.0)
    assert found.notes == [
        "4 forecasts of 2 patients: those of a patient are averaged first, and intervals are over patients"
    ]


def test_scores_are_averages_with_intervals_over_patients() -> None:
    one = drawn(60)
    found = score(one).estimates
    error = np.abs(one.mean - one.truth)
    options = {"n_resamples": 1000, "method": "BCa", "rng": np.random.default_rng(0), "vectorized": False}
    for name, statistic in (("mean_error", np.mean), ("median_error", np.median)):
        expected = scipy.stats.bootstrap((error,), statistic, **options | {"rng": np.random.default_rng(0)})
        assert found[name].value == pytest.approx(statistic(error))
        ends = (found[name].low, found[name].high)
        assert ends == pytest.approx(tuple(expected.confidence_interval), rel=1e-12)
    inside = int((error <= 1.959963984540054 * 0.3).sum())
    bounds = scipy.stats.binomtest(inside, 60).proportion_ci(method="exact")
    assert found["coverage/normal"].value == pytest.approx(inside / 60)
    assert (found["coverage/normal"].low, found["coverage/normal"].high) == pytest.approx(tuple(bounds))
    assert found["width/normal"].value == pytest.approx(2 * 1.959963984540054 * 0.3)


def test_infinite_intervals_have_no_score_but_a_reason() -> None:
    found = score(judged(np.zeros(12), np.zeros(12), np.ones(12), num_errors=11))
    reason = "normalised conformal at 95 % needs 19 patients, there are 11: intervals are infinite"
    assert list(found.notes) == [reason]
    for name in ("interval_score", "coverage", "width"):
        assert found.estimates[f"{name}/conformal"].value is None
        assert found.estimates[f"{name}/conformal"].reason == reason
        assert found.estimates[f"{name}/normal"].value is not None


def test_differences_are_paired_and_adjusted() -> None:
    """A large error that all models share hides a small gain, but for pairs of the same patient."""
    generator = np.random.default_rng(0)
    mean, shared = np.zeros(60), generator.normal(0.0, 2.0, 60)
    noise = generator.normal(0.0, 0.02, (3, 60))
    errors = np.abs(shared) + 1.0
    models = {
        name: judged(errors * factor + own, mean, np.ones(60))
        for name, factor, own in zip(["last_value", "same", "better"], [1.0, 1.0, 0.95], noise, strict=True)
    }
    found = paired_differences(models, "last_value", "normal")
    assert sorted(found) == ["better", "same"]
    difference = found["better"]["mean_error"]
    direct = np.mean(np.abs(models["better"].truth) - np.abs(models["last_value"].truth))
    assert difference.estimate.value == pytest.approx(direct)
    assert difference.estimate.high is not None
    assert difference.estimate.high < 0.0
    tests = [one for row in found.values() for one in row.values()]
    expected = scipy.stats.false_discovery_control([one.p_value for one in tests])
    np.testing.assert_allclose([one.q_value for one in tests], expected)
    assert found["same"]["mean_error"].q_value > 0.05 > difference.q_value  # type: ignore[operator]


def test_different_visits_are_not_compared() -> None:
    with pytest.raises(ValueError, match="same visits"):
        paired_differences({"one": drawn(20), "other": drawn(21)}, "one", "normal")


@dataclass(frozen=True)
class Fixed:
    """A tumour that grows by a factor of e^rate a year."""

    rate: float

    def predict(self, seen: Visits, days: Floats) -> Forecast:
        years = (days - seen.days[-1]) / 365.25
        return Forecast(seen.log_volume[-1] + self.rate * years, years)


def test_growth_is_told_at_the_horizons_after_the_last_visit() -> None:
    seen = Visits("one", np.array([100.0, 500.0]), np.array([8.0, 9.0]), np.zeros(2))
    found = growth_probabilities(Fixed(0.2), seen)
    expected = scipy.stats.norm.sf(np.log(1.4), 0.2 * np.array(HORIZONS), np.sqrt(HORIZONS))
    np.testing.assert_allclose(found, expected)


def test_only_visits_about_a_horizon_tell_of_it() -> None:
    years = [0.7, 0.76, 1.2, 1.3, 1.5, 2.5, 2.6, 3.8, 6.2, 6.3]
    found = calibrations(judged(np.zeros(10), np.zeros(10), np.ones(10), years=years))
    assert [one.num_forecasts for one in found] == [2, 2, 2, 10]
    nothing = calibrations(judged([0.0], [0.0], [1.0], years=[10.0]))[0]
    assert (nothing.num_forecasts, nothing.brier.value, nothing.bins) == (0, None, [])


def test_probabilities_that_are_right_lie_on_the_diagonal() -> None:
    generator = np.random.default_rng(1)
    num = 2000
    mean, last = generator.normal(9.0, 1.0, num), np.full(num, 9.0)
    *_, right = calibrations(judged(generator.normal(mean, 0.5), mean, np.full(num, 0.5), last=last))
    *_, sure = calibrations(judged(generator.normal(mean, 0.5), mean, np.full(num, 0.05), last=last))
    for one in right.bins:
        assert abs(one.expected - one.observed.value) < 4.0 * math.sqrt(0.25 / one.num_forecasts)  # type: ignore[operator]
    middle = [one for one in sure.bins if 0.0 < one.low < 0.8]
    assert max(abs(one.expected - one.observed.value) for one in middle) > 0.1  # type: ignore[operator]
    assert right.brier.value < sure.brier.value < sure.brier_of_share  # type: ignore[operator]
    assert sum(one.num_forecasts for one in right.bins) == num


def test_the_score_of_brier_is_a_mean_square_over_patients() -> None:
    """Probabilities of one half; patient 0 grew at one of two visits, patient 1 at his only one."""
    *_, found = calibrations(
        judged([9.0, 0.0, 9.0], np.log([1.4] * 3), np.ones(3), patients=[0, 0, 1], last=np.zeros(3))
    )
    assert found.brier.value == pytest.approx(0.25)
    assert found.expected == pytest.approx(0.5)
    assert found.observed.value == pytest.approx(0.75)
