"""Scores of judged forecasts, differences between models, and how far probabilities of growth can be trusted.

Every score is averaged over the forecasts of a patient first: each patient counts once. Intervals are over patients.

Shape suffixes: N forecasts, P patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from menvae.forecasting.judging import Intervals, Judged
from menvae.growth import FittedGrowth, Floats, Visits
from menvae.growth.visits import DAYS_PER_YEAR
from menvae.statistics.bootstrap import (
    Tested,
    bootstrap_intervals,
    bootstrap_intervals_of_means,
    bootstrap_tests_of_means,
)
from menvae.statistics.discoveries import q_values
from menvae.statistics.estimate import Estimate
from menvae.statistics.forecasts import binomial_interval, crps_normal, exceedance, interval_score

RATIO = 1.4
"""Growth that counts: a volume of 40 % more."""
HORIZONS = (1.0, 2.0, 5.0)
"""Years ahead for which probabilities of growth are told."""
WINDOW = 0.25
"""A visit tells of a horizon if it is no more than this share of it earlier or later."""
NUM_BINS = 5

SCORES: Mapping[str, str] = {
    "median_error": "median absolute error of the log volume",
    "mean_error": "mean absolute error of the log volume",
    "median_error_percent": "median absolute error, % of the volume",
    "mean_error_percent": "mean absolute error, % of the volume",
    "crps": "continuous ranked probability score of the log volume",
    "interval_score": "interval score of the log volume",
    "coverage": "share of intervals that contain the volume",
    "width": "mean width of intervals of the log volume",
}
"""Name, as before the first ``/`` of a key of `Scores.estimates` -> what it is."""


@dataclass(frozen=True)
class Scores:
    """Scores of one model.

    Attributes:
        num_patients: of whom visits were forecast.
        num_forecasts: of them.
        estimates: a name of `SCORES` -> value with its 95 % interval; the last three have one for each kind of
            intervals, such as ``coverage/normal``. A volume is forecast as the median, exp(mean).
        notes: what a reader must know, such as why intervals are infinite.
    """

    num_patients: int
    num_forecasts: int
    estimates: Mapping[str, Estimate]
    notes: Sequence[str]


def score(judged: Judged, *, seed: int = 0) -> Scores:
    """Score the forecasts of one model, with BCa intervals over patients.

    The bounds of a coverage are those of Clopper & Pearson 1934, with a patient as a trial; a patient with several
    forecasts counts with the share that was covered, for which the bounds are wide enough.

    Args:
        judged: forecasts.
        seed: of the resamples.
    """
    means = {name: _of_patients(losses, judged) for name, losses in losses_of(judged).items()}
    num = len(next(iter(means.values())))
    finite = {name: values for name, values in means.items() if np.isfinite(values).all()}
    found = bootstrap_intervals_of_means(
        lambda columns: dict(zip(finite, columns.T, strict=True)),
        np.stack(list(finite.values()), axis=1),
        range(num),
        seed=seed,
    )
    medians = bootstrap_intervals(
        lambda rows: {name: float(np.median(means[name][rows])) for name in ("error", "error_percent")},
        range(num),
        seed=seed,
    )
    estimates = {f"{kind}_{name}": of[name] for name in medians for kind, of in (("median", medians), ("mean", found))}
    estimates["crps"] = found["crps"]
    notes = []
    for kind in judged.intervals:
        reason = judged.infinite(kind)
        notes += [reason] * bool(reason)
        for part in ("interval_score", "coverage", "width"):
            name = f"{part}/{kind}"
            if reason:
                estimates[name] = Estimate(None, None, None, num, reason)
            else:
                estimates[name] = _share(means[name]) if part == "coverage" else found[name]
    if len(judged.tasks) > num:
        notes.append(
            f"{len(judged.tasks)} forecasts of {num} patients: those of a patient are averaged first, and intervals "
            "are over patients"
        )
    return Scores(num, len(judged.tasks), estimates, notes)


def losses_of(judged: Judged) -> dict[str, Floats]:
    """Return ``error``, ``error_percent``, ``crps`` and those of each kind of intervals of every forecast [N]."""
    error = judged.mean - judged.truth
    losses = {
        "error": np.abs(error),
        "error_percent": 100.0 * np.abs(np.expm1(error)),
        "crps": crps_normal(judged.mean, judged.sd, judged.truth),
    }
    for kind, (low, high) in judged.intervals.items():
        losses[f"interval_score/{kind}"] = interval_score(low, high, judged.truth, judged.level)
        losses[f"coverage/{kind}"] = judged.covered(kind).astype(np.float64)
        losses[f"width/{kind}"] = high - low
    return losses


# --- models against each other ----------------------------------------------------------------------------------------


class PairedDifference(NamedTuple):
    """Mean over patients of a model's score minus that of another one: below 0, the model is better.

    Attributes:
        estimate: with its BCa interval.
        p_value: two-sided, of a difference of 0; None without an interval.
        q_value: adjusted for all tests of the table.
    """

    estimate: Estimate
    p_value: float | None
    q_value: float | None


def paired_differences(
    models: Mapping[str, Judged], baseline: str, kind: Intervals, *, seed: int = 0
) -> dict[str, dict[str, PairedDifference]]:
    """Compare models with one of them, patient by patient.

    Args:
        models: name -> forecasts of the same visits.
        baseline: name of the one that others are compared with.
        kind: of the intervals that are scored.
        seed: of the resamples.

    Returns:
        Name of every other model -> ``mean_error``, ``mean_error_percent``, ``crps`` and ``interval_score``, without
        scores that are infinite.

    Raises:
        ValueError: the models forecast different visits.
    """
    if any(one.tasks != models[baseline].tasks for one in models.values()):
        raise ValueError("models that are compared must forecast the same visits")
    tests = {
        (model, name): tested
        for model, judged in models.items()
        if model != baseline
        for name, tested in _tested(judged, models[baseline], kind, seed).items()
    }
    adjusted = q_values({test: p_value for test, (_, p_value) in tests.items()})
    found: dict[str, dict[str, PairedDifference]] = {model: {} for model in models if model != baseline}
    for (model, name), (estimate, p_value) in tests.items():
        found[model][name] = PairedDifference(estimate, p_value, adjusted[model, name])
    return found


def _tested(judged: Judged, baseline: Judged, kind: Intervals, seed: int) -> dict[str, Tested]:
    columns = {"mean_error": "error", "mean_error_percent": "error_percent", "crps": "crps"}
    columns["interval_score"] = f"interval_score/{kind}"
    ours, theirs = (losses_of(one) for one in (judged, baseline))
    finite = {
        name: _of_patients(ours[key], judged) - _of_patients(theirs[key], baseline)
        for name, key in columns.items()
        if all(key in losses and np.isfinite(losses[key]).all() for losses in (ours, theirs))
    }
    return bootstrap_tests_of_means(
        lambda means: dict(zip(finite, means.T, strict=True)),
        np.stack(list(finite.values()), axis=1),
        range(len(finite["crps"])),
        seed=seed,
    )


# --- probabilities of growth ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bin:
    """Forecasts with similar probabilities of growth.

    Attributes:
        low: smallest probability of the bin.
        high: largest one.
        num_forecasts: in it, at least one.
        expected: their mean probability.
        observed: share that grew as much, with the bounds of Clopper & Pearson 1934 over patients.
    """

    low: float
    high: float
    num_forecasts: int
    expected: float
    observed: Estimate


@dataclass(frozen=True)
class Calibration:
    """How far probabilities of growth can be trusted, at visits about one horizon.

    Attributes:
        years: the horizon; None: any visit.
        num_forecasts: of these visits.
        expected: mean probability of growth; None without visits.
        observed: share of patients whose tumour grew as much.
        brier: mean squared difference of probability and outcome (Brier 1950); 0 is best.
        brier_of_share: the same if every probability were ``observed``; None without visits.
        bins: of probabilities, none of them empty.
    """

    years: float | None
    num_forecasts: int
    expected: float | None
    observed: Estimate
    brier: Estimate
    brier_of_share: float | None
    bins: Sequence[Bin]


def growth_probabilities(
    fit: FittedGrowth, seen: Visits, *, ratio: float = RATIO, years: Sequence[float] = HORIZONS
) -> Floats:
    """Return the probabilities that a patient's volume will be measured as more than ``ratio`` times the last one.

    Args:
        fit: model, which has not seen the patient.
        seen: his visits.
        ratio: of the volumes, such as 1.4.
        years: after the last visit.
    """
    forecast = fit.predict(seen, seen.days[-1] + DAYS_PER_YEAR * np.array(years))
    threshold = np.full(len(years), seen.log_volume[-1] + np.log(ratio))
    return exceedance(forecast.mean, np.sqrt(forecast.variance), threshold)


def calibrations(
    judged: Judged, *, ratio: float = RATIO, horizons: Sequence[float] = HORIZONS, seed: int = 0
) -> list[Calibration]:
    """Compare probabilities of growth since the last known visit with what was measured.

    A visit tells of a horizon if it is within `WINDOW` of it: of 2 years, 1.5 to 2.5. Its probability is that of its
    own day. The last item is over all visits.

    Args:
        judged: forecasts.
        ratio: of the volumes, such as 1.4.
        horizons: years after the last known visit.
        seed: of the resamples.
    """
    threshold = judged.last + np.log(ratio)
    probability = exceedance(judged.mean, judged.sd, threshold)
    grew = (judged.truth > threshold).astype(np.float64)
    found = []
    for years in (*horizons, None):
        near = np.abs(judged.years - (years or 0.0)) <= (np.inf if years is None else WINDOW * years)
        found.append(_calibration(years, probability[near], grew[near], judged.patients[near], seed))
    return found


def _calibration(
    years: float | None, probability: Floats, grew: Floats, patients: NDArray[np.intp], seed: int
) -> Calibration:
    if not len(grew):
        nothing = Estimate(None, None, None, 0, "no visit is that far from the last known one")
        return Calibration(years, 0, None, nothing, nothing, None, [])
    expected, observed = _averaged(probability, patients), _averaged(grew, patients)
    squares = _averaged((probability - grew) ** 2, patients)
    brier = bootstrap_intervals_of_means(
        lambda means: {"brier": means[:, 0]}, squares[:, None], range(len(squares)), seed=seed
    )["brier"]
    share = float(observed.mean())
    number = np.minimum((NUM_BINS * probability).astype(int), NUM_BINS - 1)
    bins = []
    for place in np.unique(number).tolist():
        those = number == place
        mean = float(_averaged(probability[those], patients[those]).mean())
        told = _share(_averaged(grew[those], patients[those]))
        bins.append(Bin(place / NUM_BINS, (place + 1) / NUM_BINS, int(those.sum()), mean, told))
    of_share = float(_averaged((grew - share) ** 2, patients).mean())
    return Calibration(years, len(grew), float(expected.mean()), _share(observed), brier, of_share, bins)


def _share(values_P: Floats) -> Estimate:
    low, high = binomial_interval(float(values_P.sum()), len(values_P))
    return Estimate(float(values_P.mean()), low, high, len(values_P))


def _of_patients(values_N: Floats, judged: Judged) -> Floats:
    return _averaged(values_N, judged.patients)


def _averaged(values_N: Floats, patients: NDArray[np.intp]) -> Floats:
    """Return the mean of each patient's values [P]."""
    _, place_N, count_P = np.unique(patients, return_inverse=True, return_counts=True)
    averages: Floats = np.bincount(place_N, values_N) / count_P
    return averages
