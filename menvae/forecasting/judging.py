"""Forecasts of held-out visits by several models, and their intervals."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import ndtri

from menvae.forecasting.protocols import Protocol, Task, tasks
from menvae.growth import FittedGrowth, Floats, GrowthModel, Visits
from menvae.statistics.forecasts import jackknife_plus

_log = logging.getLogger(__name__)

Intervals = Literal["normal", "jackknife_plus"]


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
        low: lower ends of the intervals [N].
        high: upper ends [N].
    """

    tasks: Sequence[Task]
    truth: Floats
    last: Floats
    years: Floats
    mean: Floats
    sd: Floats
    low: Floats
    high: Floats


def judge(
    model: GrowthModel,
    patients: Sequence[Visits],
    folds: Sequence[Sequence[int]] | None,
    *,
    protocol: Protocol,
    level: float,
    intervals: Intervals,
) -> Judged:
    """Forecast the visits of each patient by a model that was fitted to other patients.

    Args:
        model: of growth.
        patients: at least two.
        folds: numbers of the patients that are held out together; None: one patient at a time.
        protocol: what is known and what is forecast.
        level: of the intervals, such as 0.95.
        intervals: ``normal``: of the forecast's variance; ``jackknife_plus``: of the errors, over their standard
            deviations, of models that lack one more patient.
    """
    held_out = [[number] for number in range(len(patients))] if folds is None else [list(fold) for fold in folds]
    fits: Sequence[FittedGrowth]
    if folds is None:
        fits = model.fit_without_each(patients)
    else:
        fits = [model.fit(_others(patients, fold)) for fold in held_out]
    rows = []
    wanted = tasks(patients, protocol)
    for fold, fitted in zip(held_out, fits, strict=True):
        own = [task for task in wanted if task.patient in fold]
        if not own:
            continue
        bound = _normal if intervals == "normal" else _jackknife(model, _others(patients, fold), protocol)
        rows += [(task, *_forecast(fitted, patients[task.patient], task, bound, level)) for task in own]
    rows.sort(key=lambda row: (row[0].patient, row[0].target))
    columns = list(zip(*rows, strict=True))
    return Judged(columns[0], *(np.array(column, dtype=np.float64) for column in columns[1:]))


Bound = Callable[[Visits, Floats, float, float, float], tuple[float, float]]
"""Known visits, day to forecast, mean, standard deviation, level -> interval."""


def _forecast(fitted: FittedGrowth, visits: Visits, task: Task, bound: Bound, level: float) -> tuple[float, ...]:
    seen, day = visits[: task.num_seen], visits.days[task.target : task.target + 1]
    forecast = fitted.predict(seen, day)
    mean, sd = float(forecast.mean[0]), math.sqrt(float(forecast.variance[0]))
    low, high = bound(seen, day, mean, sd, level)
    years = visits.years[task.target] - seen.years[-1]
    return visits.log_volume[task.target], seen.log_volume[-1], years, mean, sd, low, high


def _normal(seen: Visits, day: Floats, mean: float, sd: float, level: float) -> tuple[float, float]:
    reach = sd * float(ndtri(0.5 + 0.5 * level))
    return mean - reach, mean + reach


def _jackknife(model: GrowthModel, others: Sequence[Visits], protocol: Protocol) -> Bound:
    """Return intervals from the errors of models that lack one of the other patients, at that patient."""
    without = model.fit_without_each(others)
    scores: dict[int, float] = {}
    for task in tasks(others, protocol):
        visits = others[task.patient]
        forecast = without[task.patient].predict(visits[: task.num_seen], visits.days[task.target : task.target + 1])
        error = abs(visits.log_volume[task.target] - forecast.mean[0]) / math.sqrt(forecast.variance[0])
        scores[task.patient] = max(error, scores.get(task.patient, 0.0))
    ordered = np.array(list(scores.values()))

    def bound(seen: Visits, day: Floats, mean: float, sd: float, level: float) -> tuple[float, float]:
        forecasts = [without[patient].predict(seen, day) for patient in scores]
        means = np.array([forecast.mean[0] for forecast in forecasts])
        scales = np.sqrt([forecast.variance[0] for forecast in forecasts])
        return jackknife_plus(means, scales, ordered, level)

    return bound


def _others(patients: Sequence[Visits], fold: Sequence[int]) -> list[Visits]:
    left_out = set(fold)
    return [visits for number, visits in enumerate(patients) if number not in left_out]
