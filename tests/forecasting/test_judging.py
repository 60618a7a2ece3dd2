"""Intervals of judged forecasts against refits by hand, and controls in which models must do worse."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from growth.cohorts import meningiomas, straight_lines

from menvae.errors import UserError
from menvae.forecasting.judging import Judged, judge, too_few_errors
from menvae.forecasting.protocols import Task, patient_folds, tasks
from menvae.growth import Floats, Forecast, GrowthModel, Visits
from menvae.growth.last_value import LastValue
from menvae.growth.lme import LinearMixedEffects
from menvae.statistics.forecasts import crps_normal


@dataclass(frozen=True)
class Shift:
    """The last known log volume plus a number, and a spread that grows with time."""

    rate: float

    def predict(self, seen: Visits, days: Floats) -> Forecast:
        years = (days - seen.days[-1]) / 365.25
        return Forecast(seen.log_volume[-1] + self.rate * years, (0.1 + 0.2 * years) ** 2)


class MeanRate(GrowthModel):
    """The mean rate between the first and the last visit of those who have two."""

    def fit(self, patients: Sequence[Visits]) -> Shift:
        rates = [np.diff(v.log_volume[[0, -1]])[0] / np.diff(v.years[[0, -1]])[0] for v in patients if len(v) > 1]
        return Shift(float(np.mean(rates)))


def all_kinds(patients: Sequence[Visits], folds: Sequence[Sequence[int]] | None = None, level: float = 0.8) -> Judged:
    kinds = ("normal", "jackknife_plus", "conformal", "cqr")
    return judge(MeanRate(), patients, folds, protocol="all_from_first", level=level, intervals=kinds)


def by_hand(patients: Sequence[Visits], task: Task, fold: Sequence[int]) -> tuple[Forecast, list[Forecast], Floats]:
    """Forecast of a task; those by models that lack another patient, and each one's normalised error at him."""
    visits = patients[task.patient]
    seen, day = visits[: task.num_seen], visits.days[[task.target]]
    others = [number for number in range(len(patients)) if number not in fold]
    forecasts, errors = [], []
    for left_out in others:
        fit = MeanRate().fit([patients[number] for number in others if number != left_out])
        forecasts.append(fit.predict(seen, day))
        own = patients[left_out]
        at = fit.predict(own[:1], own.days[1:2])
        errors.append(abs(own.log_volume[1] - at.mean[0]) / math.sqrt(at.variance[0]))
    return MeanRate().fit([patients[number] for number in others]).predict(seen, day), forecasts, np.array(errors)


@pytest.mark.parametrize("folds", [None, [[0, 1, 2], [3, 4], [5, 6, 7, 8, 9]]], ids=["one by one", "folds"])
def test_intervals_are_those_of_refits_by_hand(folds: list[list[int]] | None) -> None:
    patients = straight_lines(10, 0, num_visits=2)
    judged = all_kinds(patients, folds, level=0.7)
    assert judged.tasks == [Task(number, 1, 1) for number in range(10)]
    for n, task in enumerate(judged.tasks):
        fold = next(fold for fold in folds or [[task.patient]] if task.patient in fold)
        forecast, without, errors = by_hand(patients, task, fold)
        mean, sd = forecast.mean[0], math.sqrt(forecast.variance[0])
        rank = math.ceil((len(errors) + 1) * 7 / 10)
        reach = [error * math.sqrt(one.variance[0]) for error, one in zip(errors, without, strict=True)]
        low = sorted(one.mean[0] - far for one, far in zip(without, reach, strict=True))[-rank]
        high = sorted(one.mean[0] + far for one, far in zip(without, reach, strict=True))[rank - 1]
        expected = {
            "normal": (mean - 1.0364333894937898 * sd, mean + 1.0364333894937898 * sd),
            "jackknife_plus": (low, high),
            "conformal": (mean - np.sort(errors)[rank - 1] * sd, mean + np.sort(errors)[rank - 1] * sd),
        }
        np.testing.assert_allclose([judged.mean[n], judged.sd[n]], [mean, sd], rtol=1e-12)
        for kind, ends in expected.items():
            found = judged.intervals[kind]  # type: ignore[index]
            np.testing.assert_allclose((found.low[n], found.high[n]), ends, rtol=1e-12)


def test_quantiles_move_by_what_those_of_others_lacked() -> None:
    patients = straight_lines(10, 1, num_visits=2)
    judged = all_kinds(patients, level=0.7)
    lacked = []
    for left_out in range(1, 10):
        fit = MeanRate().fit([patients[number] for number in range(1, 10) if number != left_out])
        own = patients[left_out]
        at = fit.predict(own[:1], own.days[1:2])
        low, high = (at.mean[0] + sign * 1.0364333894937898 * math.sqrt(at.variance[0]) for sign in (-1, 1))
        lacked.append(max(low - own.log_volume[1], own.log_volume[1] - high))
    moved = sorted(lacked)[6]  # ceil(10 * 0.7) = 7
    (low, high), (wanted_low, wanted_high) = judged.intervals["normal"], judged.intervals["cqr"]
    np.testing.assert_allclose((wanted_low[0], wanted_high[0]), (low[0] - moved, high[0] + moved), rtol=1e-12)


def test_ends_of_quantiles_never_pass_each_other() -> None:
    """All errors are far smaller than expected, and a sure forecast would get an interval of negative width."""
    patients = [
        Visits(f"patient-{number}", np.array([0.0, days]), np.array([9.0, 9.0 + 1e-3 * number]), np.zeros(2))
        for number, days in enumerate([400.0] * 9 + [1.0])
    ]
    low, high = all_kinds(patients).intervals["cqr"]
    assert (low <= high).all()
    assert low[9] == high[9]


def test_several_visits_of_a_patient_share_his_weight() -> None:
    """One patient has many visits that all are wrong; he counts as one of ten."""
    patients = straight_lines(11, 2, noise_sd=0.01, num_visits=2)
    days = np.arange(21) * 100.0
    wild = Visits("wild", days, 9.0 + 5.0 * (days > 0.0), np.zeros(21))
    narrow = all_kinds([*patients[:-1], wild], level=0.8).intervals["conformal"]
    assert float((narrow.high - narrow.low)[0]) < 5.0
    wide = all_kinds([*patients[:-1], wild], level=0.9).intervals["conformal"]
    assert float((wide.high - wide.low)[0]) > 5.0


def test_too_few_patients_have_infinite_intervals_and_a_sentence() -> None:
    judged = all_kinds(straight_lines(12, 0), level=0.95)
    for kind in ("jackknife_plus", "conformal", "cqr"):
        low, high = judged.intervals[kind]  # type: ignore[index]
        assert np.isneginf(low).all()
        assert np.isposinf(high).all()
    assert judged.infinite("conformal") == (
        "normalised conformal at 95 % needs 19 patients, there are 11: intervals are infinite"
    )
    assert judged.infinite("normal") == ""
    assert np.isfinite(judged.intervals["normal"]).all()


@pytest.mark.parametrize(("num", "finite"), [(19, False), (20, True)])
def test_one_patient_decides_whether_intervals_are_finite(num: int, finite: bool) -> None:
    """19 others are needed; patients with a single visit are none of them."""
    alone = Visits("alone", np.zeros(1), np.full(1, 9.0), np.zeros(1))
    judged = all_kinds([*straight_lines(num, 0, num_visits=2), alone], level=0.95)
    assert np.isfinite(judged.intervals["jackknife_plus"]).all() == finite
    assert (too_few_errors("jackknife_plus", 0.95, judged.num_errors) == "") == finite


def test_nothing_of_a_held_out_patient_reaches_his_forecast() -> None:
    patients = straight_lines(12, 0, num_visits=3)
    own = patients[4]
    wrong = Visits(own.patient, own.days, own.log_volume + 7.0 * (own.days == own.days[2]), own.variance)
    folds = [[0, 4, 5], [1, 2, 3], [6, 7, 8, 9, 10, 11]]
    for used in (None, folds):
        options = {"protocol": "last_from_rest", "level": 0.8, "intervals": ("normal", "jackknife_plus", "cqr")}
        before = judge(MeanRate(), patients, used, **options)
        after = judge(MeanRate(), [*patients[:4], wrong, *patients[5:]], used, **options)
        assert after.mean[4] == before.mean[4]
        for kind, ends in before.intervals.items():
            np.testing.assert_array_equal(np.array(after.intervals[kind])[:, 4], np.array(ends)[:, 4])
        assert not np.array_equal(after.mean, before.mean)


def test_patients_without_a_later_visit_are_not_forecast_but_help_to_fit() -> None:
    alone = Visits("alone", np.zeros(1), np.full(1, 9.0), np.zeros(1))
    assert tasks([alone, *straight_lines(2, 0, num_visits=3)], "all_from_first") == [
        Task(1, 1, 1), Task(1, 1, 2), Task(2, 1, 1), Task(2, 1, 2)
    ]  # fmt: skip
    with pytest.raises(UserError, match="2 patients: none who is forecast has two visits"):
        all_kinds([alone, replace(alone, patient="another")])


def test_too_few_patients_to_fit_are_refused() -> None:
    with pytest.raises(UserError, match=r"2 patients: .* 1 have two visits, .* at least 2 of"):
        all_kinds(straight_lines(2, 0))
    with pytest.raises(UserError, match="4 patients: without those that are forecast, 1 have"):
        all_kinds(straight_lines(4, 0), [[0], [1, 2, 3]])


def test_folds_share_all_patients_and_are_alike_in_size() -> None:
    patients = straight_lines(23, 0)
    folds = patient_folds(patients, 4, seed=0)
    assert sorted(number for fold in folds for number in fold) == list(range(23))
    means = [np.mean([patients[number].log_volume[0] for number in fold]) for fold in folds]
    assert np.ptp(means) < 0.5
    with pytest.raises(UserError, match="24 folds need at least 24 patients, and there are 23"):
        patient_folds(patients, 24, seed=0)


def test_a_model_of_shuffled_visits_loses_to_the_last_value() -> None:
    """Volumes of training patients change places within each patient: nothing about growth can be learnt."""
    generator = np.random.default_rng(0)
    patients, new = straight_lines(40, 3, num_visits=4), straight_lines(60, 4, num_visits=4)
    shuffled = [replace(visits, log_volume=generator.permutation(visits.log_volume)) for visits in patients]

    def error(model: GrowthModel, train: Sequence[Visits]) -> float:
        judged = judge(model, [*train, *new], [list(range(40, 100))], **LAST)
        return float(np.abs(judged.mean - judged.truth).mean())

    last = error(LastValue(), patients)
    assert error(LinearMixedEffects(), patients) < 0.9 * last
    assert error(LinearMixedEffects(), shuffled) > 1.1 * last


def test_more_patients_make_better_forecasts() -> None:
    new = meningiomas(60, 1)

    def score(num: int) -> float:
        found = []
        for seed in range(3):
            judged = judge(LinearMixedEffects(), [*meningiomas(num, seed + 2), *new], [range(num, num + 60)], **LAST)
            found.append(float(crps_normal(judged.mean, judged.sd, judged.truth).mean()))
        return float(np.mean(found))

    few, many = score(4), score(60)
    assert many < 0.97 * few


LAST = {"protocol": "last_from_rest", "level": 0.9, "intervals": ("normal",)}
