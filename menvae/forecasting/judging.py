"""Forecasts of held-out visits by several models, and their intervals.

Kinds of intervals, all of patients whom no model had seen:

- ``normal``: of the forecast's own variance.
- ``jackknife_plus``: about the forecasts of models that lack one more patient, as wide as their errors at that patient,
  over the standard deviations that they had expected (Barber et al. 2021).
- ``conformal``: about the forecast, with the same errors (normalised as by Papadopoulos, Gammerman & Vovk 2008).
- ``cqr``: the ends of ``normal``, both moved by as much as those models' ends should have been (scores of conformalised
  quantile regression; Romano, Patterson & Candes 2019).

Whatever the model, jackknife+ covers at least 2 level - 1. The last two take the errors of models that lack one patient
for those of the model with all of them, instead of giving up patients to a split: they rely on a model that hardly
changes with one patient.

All but the first share one set of errors, those of models of the training patients that lack one of them. With a level
of 95 %, an interval covers 95 % of the forecasts of patients, each of whom counts once, however many are forecast of
him (see `menvae.statistics.forecasts.conformal_bound`). It is no band that covers all visits of a patient at once: for
that, the largest error of each patient would have to count, and intervals of single visits would be too wide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from menvae.errors import UserError
from menvae.forecasting.protocols import Protocol, Task, tasks
from menvae.growth import FittedGrowth, Floats, GrowthModel, Visits
from menvae.presentation.text import counted
from menvae.statistics.forecasts import conformal_bound, conformal_rank, fewest_scores, jackknife_plus

Intervals = Literal["normal", "jackknife_plus", "conformal", "cqr"]

INTERVAL_NAMES: Mapping[Intervals, str] = {
    "normal": "normal",
    "jackknife_plus": "jackknife+",
    "conformal": "normalised conformal",
    "cqr": "conformalised quantile",
}


class Ends(NamedTuple):
    """Lower and upper ends of intervals [N]; infinite where too few patients were there to bound them."""

    low: Floats
    high: Floats


@dataclass(frozen=True)
class Judged:
    """Forecasts of one model, all of patients whom it had not seen.

    Attributes:
        tasks: what was forecast, N.
        truth: measured log volumes [N].
        last: last known log volumes [N].
        years: from the last known visit to the forecast [N].
        mean: forecasts [N].
        sd: their standard deviations [N].
        level: of the intervals.
        intervals: kind -> ends.
        num_errors: patients by whose errors intervals were set, the fewest of any fold.
        fits: number of a patient -> the model that had not seen him.
    """

    tasks: Sequence[Task]
    truth: Floats
    last: Floats
    years: Floats
    mean: Floats
    sd: Floats
    level: float
    intervals: Mapping[Intervals, Ends]
    num_errors: int
    fits: Mapping[int, FittedGrowth]

    @property
    def patients(self) -> NDArray[np.intp]:
        """Number of the patient of each forecast [N]."""
        return np.array([task.patient for task in self.tasks], dtype=np.intp)

    def covered(self, kind: Intervals) -> NDArray[np.bool_]:
        """Return which intervals contain the truth [N]."""
        low, high = self.intervals[kind]
        inside: NDArray[np.bool_] = (low <= self.truth) & (self.truth <= high)
        return inside

    def infinite(self, kind: Intervals) -> str:
        """Say why intervals of a kind are infinite; empty if they are not."""
        return "" if kind == "normal" else too_few_errors(kind, self.level, self.num_errors)


def pooled(parts: Sequence[Judged]) -> Judged:
    """Join forecasts of the same patients by one model, each of a part of them, such as of one fold of encoders."""
    found = [task for part in parts for task in part.tasks]
    order = sorted(range(len(found)), key=lambda number: (found[number].patient, found[number].target))

    def joined(columns: Iterable[Floats]) -> Floats:
        values: Floats = np.concatenate(list(columns))[order]
        return values

    return Judged(
        tasks=[found[number] for number in order],
        truth=joined(part.truth for part in parts),
        last=joined(part.last for part in parts),
        years=joined(part.years for part in parts),
        mean=joined(part.mean for part in parts),
        sd=joined(part.sd for part in parts),
        level=parts[0].level,
        intervals={
            kind: Ends(*(joined(part.intervals[kind][end] for part in parts) for end in (0, 1)))
            for kind in parts[0].intervals
        },
        num_errors=min(part.num_errors for part in parts),
        fits={patient: fit for part in parts for patient, fit in part.fits.items()},
    )


def too_few_errors(kind: Intervals, level: float, num: int) -> str:
    """Say that ``num`` patients are too few to bound errors; empty if they are not.

    >>> too_few_errors("jackknife_plus", 0.95, 12)
    'jackknife+ at 95 % needs 19 patients, there are 12: intervals are infinite'
    """
    if conformal_rank(num, level) is not None:
        return ""
    name, needed = INTERVAL_NAMES[kind], fewest_scores(level)
    return f"{name} at {100.0 * level:g} % needs {counted(needed, 'patient')}, there are {num}: intervals are infinite"


def judge(
    model: GrowthModel,
    patients: Sequence[Visits],
    folds: Sequence[Sequence[int]] | None,
    *,
    protocol: Protocol,
    level: float,
    intervals: Sequence[Intervals],
) -> Judged:
    """Forecast the visits of each patient by a model that was fitted to other patients.

    Args:
        model: of growth.
        patients: more than the model needs.
        folds: numbers of the patients that are held out together; None: one patient at a time.
        protocol: what is known and what is forecast.
        level: of the intervals, such as 0.95.
        intervals: kinds; what they need is fitted once for all of them.

    Raises:
        UserError: no patient has two visits, or too few patients are left to fit the model.
    """
    held_out = [[number] for number in range(len(patients))] if folds is None else [list(fold) for fold in folds]
    forecast_here = {patient for fold in held_out for patient in fold}
    wanted = [task for task in tasks(patients, protocol) if task.patient in forecast_here]
    _check_enough(model, patients, held_out, len(wanted))
    fits = model.fit_without_each(patients) if folds is None else [model.fit(_others(patients, f)) for f in held_out]
    of_patient = {patient: fit for fold, fit in zip(held_out, fits, strict=True) for patient in fold}
    mean, sd = _forecasts(of_patient, patients, wanted)
    ends = {kind: Ends(np.full(len(wanted), -np.inf), np.full(len(wanted), np.inf)) for kind in intervals}
    num_errors = len(patients)
    for fold in held_out:
        own = np.array([n for n, task in enumerate(wanted) if task.patient in fold], dtype=np.intp)
        if not len(own):
            continue
        forecast = _Forecasts(patients, [wanted[n] for n in own], mean[own], sd[own], level)
        others = _others(patients, fold)
        to_err = tasks(others, protocol)
        num = len({task.patient for task in to_err}) if len(others) > model.min_patients else 0
        num_errors = min(num_errors, num)
        errors: _Errors | None = None
        for kind in intervals:
            if kind == "normal":
                bounds = _normal(forecast)
            elif conformal_rank(num, level) is None:
                continue
            else:
                errors = errors or _errors(model, others, to_err)
                bounds = _BOUNDS[kind](forecast, errors)
            for end, bound in zip(ends[kind], bounds, strict=True):
                end[own] = bound
    truth, last, years = (np.array(column) for column in zip(*(_known(patients, task) for task in wanted), strict=True))
    return Judged(wanted, truth, last, years, mean, sd, level, ends, num_errors, of_patient)


@dataclass(frozen=True)
class _Forecasts:
    """Forecasts [N] of patients of a fold."""

    patients: Sequence[Visits]
    tasks: Sequence[Task]
    mean: Floats
    sd: Floats
    level: float

    @property
    def reach(self) -> Floats:
        """Half widths of intervals of the forecasts' own variance [N]."""
        return self.sd * float(ndtri(0.5 + 0.5 * self.level))


@dataclass(frozen=True)
class _Errors:
    """Errors of models that lack one of the training patients, at that patient.

    Attributes:
        fits: number of the patient -> the model that lacks him.
        owners: number of the patient of each error [S].
        error: absolute [S].
        sd: expected standard deviation [S].
    """

    fits: Mapping[int, FittedGrowth]
    owners: Sequence[int]
    error: Floats
    sd: Floats


def _errors(model: GrowthModel, others: Sequence[Visits], to_err: Sequence[Task]) -> _Errors:
    fits = dict(enumerate(model.fit_without_each(others)))
    mean, sd = _forecasts(fits, others, to_err)
    truth = np.array([others[task.patient].judged_by[task.target] for task in to_err])
    owners = [task.patient for task in to_err]
    return _Errors({owner: fits[owner] for owner in owners}, owners, np.abs(truth - mean), sd)


def _normal(forecast: _Forecasts) -> Ends:
    return Ends(forecast.mean - forecast.reach, forecast.mean + forecast.reach)


def _jackknife(forecast: _Forecasts, errors: _Errors) -> Ends:
    patients, wanted = forecast.patients, forecast.tasks
    by_owner = {
        owner: _forecasts(dict.fromkeys((task.patient for task in wanted), fit), patients, wanted)
        for owner, fit in errors.fits.items()
    }
    means, sds = (np.stack([by_owner[owner][part] for owner in errors.owners]) for part in (0, 1))
    scores = errors.error / errors.sd
    ends = [
        jackknife_plus(mean, sd, scores, forecast.level, errors.owners) for mean, sd in zip(means.T, sds.T, strict=True)
    ]
    low, high = np.array(ends).T
    return Ends(low, high)


def _conformal(forecast: _Forecasts, errors: _Errors) -> Ends:
    reach = forecast.sd * conformal_bound(errors.error / errors.sd, forecast.level, errors.owners)
    return Ends(forecast.mean - reach, forecast.mean + reach)


def _quantiles(forecast: _Forecasts, errors: _Errors) -> Ends:
    """Move the ends of normal intervals; ends that would pass each other meet at the forecast."""
    beyond = errors.error - errors.sd * float(ndtri(0.5 + 0.5 * forecast.level))
    reach = np.maximum(forecast.reach + conformal_bound(beyond, forecast.level, errors.owners), 0.0)
    return Ends(forecast.mean - reach, forecast.mean + reach)


_BOUNDS: Mapping[Intervals, Callable[[_Forecasts, _Errors], Ends]] = {
    "jackknife_plus": _jackknife,
    "conformal": _conformal,
    "cqr": _quantiles,
}


def _forecasts(
    fits: Mapping[int, FittedGrowth], patients: Sequence[Visits], wanted: Sequence[Task]
) -> tuple[Floats, Floats]:
    """Return mean and standard deviation of forecasts [N], each by the model of its patient."""
    together: dict[tuple[int, int], list[int]] = {}
    for number, task in enumerate(wanted):
        together.setdefault((task.patient, task.num_seen), []).append(number)
    mean, variance = np.empty(len(wanted)), np.empty(len(wanted))
    for (patient, num_seen), numbers in together.items():
        visits = patients[patient]
        days = visits.days[[wanted[number].target for number in numbers]]
        forecast = fits[patient].predict(visits[:num_seen], days)
        mean[numbers], variance[numbers] = forecast.mean, forecast.variance
    return mean, np.sqrt(variance)


def _known(patients: Sequence[Visits], task: Task) -> tuple[float, float, float]:
    """Return the true log volume, the last known one, and the years between them."""
    visits, last = patients[task.patient], task.num_seen - 1
    years = visits.years[task.target] - visits.years[last]
    return float(visits.judged_by[task.target]), float(visits.judged_by[last]), float(years)


def _check_enough(
    model: GrowthModel, patients: Sequence[Visits], held_out: Sequence[Sequence[int]], num_tasks: int
) -> None:
    num = len(patients)
    if not num_tasks:
        raise UserError(
            f"{counted(num, 'patient')}: none who is forecast has two visits on different days; a forecast is judged "
            "by a later visit of the patient"
        )
    tell = {number for number, visits in enumerate(patients) if len(visits) > 1}
    left = min(len(tell - set(fold)) for fold in held_out)
    if left < model.min_patients:
        raise UserError(
            f"{counted(num, 'patient')}: without those that are forecast, {left} have two visits, and the model needs "
            f"at least {model.min_patients} of them; give more patients, or hold out fewer at a time"
        )


def _others(patients: Sequence[Visits], fold: Sequence[int]) -> list[Visits]:
    left_out = set(fold)
    return [visits for number, visits in enumerate(patients) if number not in left_out]
