"""Intervals over patients: the BCa bootstrap, and the delete-a-group jackknife for statistics of pairs of rows.

All rows (visits) of a patient are drawn or left out together. The bias-corrected and accelerated bootstrap (Efron 1987,
Better bootstrap confidence intervals, JASA 82:171) shifts the quantiles of the replicates by the share of replicates
below the value and by the skewness of the delete-one-patient jackknife.

A resample repeats rows. Statistics of pairs of rows (distances, kernels, cross-validated probes) take a repeated row
for a perfect neighbour and are biased by it; for them `jackknife_intervals` leaves patients out instead.

Shape suffixes: N rows, P patients, R replicates, M means.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from menvae.statistics.estimate import Estimate
from menvae.statistics.patients import Indices, rows_by_patient

Floats = NDArray[np.float64]
Statistics = Callable[[Indices], Mapping[str, float | None]]
"""Row indices, possibly repeated -> {name: value}; None where a value is undefined."""
FunctionsOfMeans = Callable[[Floats], Mapping[str, Floats]]
"""Means [R, M] -> {name: values [R]}, row by row; NaN where a value is undefined."""

NUM_REPLICATES = 1000
CONFIDENCE = 0.95
MOST_GROUPS = 100
"""Largest number of groups of the jackknife."""
MIN_PATIENTS = 10
"""With fewer patients there is no interval: too few for quantiles in the tails to mean anything."""
_MOST_MEANS = 1 << 21
"""Means of resamples in memory at once: 16 MiB, and several times as much for what is computed from them."""
MOST_UNDEFINED = 0.05
"""Largest share of undefined replicates; the others are then no longer a sample of all."""


def bootstrap_intervals(
    statistics: Statistics,
    patients: Sequence[Hashable],
    *,
    num_replicates: int = NUM_REPLICATES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Return BCa bootstrap intervals of any statistics of rows, over patients.

    The statistics are computed ``num_replicates`` + P + 1 times; `bootstrap_intervals_of_means` needs no loop.

    Args:
        statistics: called with all rows in order, with the rows of resampled patients, and with those of all patients
            but one.
        patients: patient of each row.
        num_replicates: at least 100.
        confidence: in (0, 1).
        seed: same seed, same interval.

    Returns:
        An estimate of every name that ``statistics`` returns for all rows.

    Raises:
        ValueError: no row, too few replicates, or a confidence out of range.

    >>> x = np.arange(20.0)
    >>> found = bootstrap_intervals(lambda rows: {"mean": float(x[rows].mean())}, range(20))["mean"]
    >>> found.value, 6.0 < found.low < 8.0, 11.0 < found.high < 13.0, found.n
    (9.5, True, True, 20)
    """
    _check(num_replicates, confidence)
    rows = rows_by_patient(patients)
    values = {name: _number(value) for name, value in statistics(np.arange(len(patients))).items()}
    if len(rows) < MIN_PATIENTS:
        return {name: _few(value, len(rows)) for name, value in values.items()}

    def of(chosen: Sequence[Sequence[int]]) -> dict[str, Floats]:
        found = [statistics(np.concatenate([rows[patient] for patient in some])) for some in chosen]
        return {name: np.array([_number(each.get(name)) for each in found]) for name in values}

    replicates = of(_draws(len(rows), num_replicates, seed).tolist())
    without_one = of([[other for other in range(len(rows)) if other != left] for left in range(len(rows))])
    return {
        name: _bca(value, replicates[name], without_one[name], len(rows), confidence) for name, value in values.items()
    }


def bootstrap_intervals_of_means(
    functions: FunctionsOfMeans,
    values_NM: Floats,
    patients: Sequence[Hashable],
    *,
    num_replicates: int = NUM_REPLICATES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> dict[str, Estimate]:
    """`bootstrap_intervals` of functions of means over rows, such as ratios of means, by one matrix product.

    An R2 is one, too: 1 - mean (y - y')^2 / (mean y^2 - (mean y)^2); so is a mean over observed entries, mean (o y) /
    mean o with o = 1 where y was observed and else 0.

    Args:
        functions: called with means [R, M] of resamples and [1, M] of all rows; a replicate is a row.
        values_NM: finite.
        patients: patient of each of the N rows.
        num_replicates: at least 100.
        confidence: in (0, 1).
        seed: the resamples are those of `bootstrap_intervals` with this seed.

    Raises:
        ValueError: as `bootstrap_intervals`; values that are not [N, M] or not finite.

    >>> errors = np.stack([np.arange(1.0, 41.0), np.full(40, 2.0)], axis=1)
    >>> found = bootstrap_intervals_of_means(lambda means: {"ratio": means[:, 0] / means[:, 1]}, errors, range(40))
    >>> found["ratio"].value
    10.25
    """
    _check(num_replicates, confidence)
    return _estimates(_resampled(functions, values_NM, patients, num_replicates, seed), confidence)


def bootstrap_tests_of_means(
    functions: FunctionsOfMeans,
    values_NM: Floats,
    patients: Sequence[Hashable],
    *,
    num_replicates: int = NUM_REPLICATES,
    seed: int = 0,
) -> dict[str, Tested]:
    """Return the estimates of `bootstrap_intervals_of_means`, with two-sided p-values of a value of 0.

    The p-value is 1 - c for the confidence c at which an end of the BCa interval is 0. With A the acceleration, S the
    shift and q the normal quantile of the share of replicates below 0, it is 2 min(F, 1 - F) for
    F = Phi((q - S) / (1 + A (q - S)) - S), the inverse of Efron's (1987) interval. A share of 0 or 1 counts as half a
    replicate, so that no p-value is 0.

    Args:
        functions: as for `bootstrap_intervals_of_means`, such as a difference of two of its values.
        values_NM: finite.
        patients: patient of each of the N rows.
        num_replicates: at least 100.
        seed: seed of the resamples.

    Returns:
        Estimate and p-value of every name.

    Raises:
        ValueError: as `bootstrap_intervals_of_means`.

    >>> x = np.arange(-9.0, 31.0)[:, None]
    >>> found = bootstrap_tests_of_means(lambda means: {"far": means[:, 0], "near": means[:, 0] - 10.0}, x, range(40))
    >>> found["far"].p_value < 0.01 < found["near"].p_value
    True
    """
    _check(num_replicates, CONFIDENCE)
    found = _resampled(functions, values_NM, patients, num_replicates, seed)
    tested = {}
    for name, estimate in _estimates(found, CONFIDENCE).items():
        has_interval = estimate.value is not None and estimate.low is not None
        tested[name] = Tested(
            estimate,
            _p_value(found.values[name], found.replicates[name], found.without_one[name]) if has_interval else None,
        )
    return tested


class Tested(NamedTuple):
    """An estimate and the two-sided p-value of a value of 0; None without an interval."""

    estimate: Estimate
    p_value: float | None


@dataclass(frozen=True)
class _Resampled:
    """Values of all rows, of resamples [R] and without one patient [P]; the latter two only for enough patients."""

    values: Mapping[str, float]
    replicates: Mapping[str, Floats]
    without_one: Mapping[str, Floats]
    num_patients: int


def _resampled(
    functions: FunctionsOfMeans, values_NM: Floats, patients: Sequence[Hashable], num_replicates: int, seed: int
) -> _Resampled:
    if values_NM.ndim != 2 or len(values_NM) != len(patients):
        raise ValueError(f"values must be one row for each of {len(patients)} rows, got shape {values_NM.shape}")
    if not np.isfinite(values_NM).all():
        raise ValueError(f"values must be finite, got {np.sum(~np.isfinite(values_NM))} that are not")
    rows = rows_by_patient(patients)
    sums_PM = np.stack([values_NM[some].sum(axis=0) for some in rows])
    sizes_P = np.array([len(some) for some in rows], dtype=np.float64)

    def of(counts_RP: Floats) -> dict[str, Floats]:
        means_RM = (counts_RP @ sums_PM) / (counts_RP @ sizes_P)[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            found = functions(means_RM)
        return {name: np.where(np.isfinite(array), array, np.nan) for name, array in found.items()}

    values = {name: float(array[0]) for name, array in of(np.ones((1, len(rows)))).items()}
    if len(rows) < MIN_PATIENTS:
        return _Resampled(values, {}, {}, len(rows))
    counts_RP = _counts(len(rows), num_replicates, seed)
    num_at_once = max(1, _MOST_MEANS // sums_PM.shape[1])
    blocks = [of(counts_RP[first : first + num_at_once]) for first in range(0, num_replicates, num_at_once)]
    replicates = {name: np.concatenate([block[name] for block in blocks]) for name in values}
    return _Resampled(values, replicates, of(1.0 - np.eye(len(rows))), len(rows))


def _estimates(found: _Resampled, confidence: float) -> dict[str, Estimate]:
    if found.num_patients < MIN_PATIENTS:
        return {name: _few(value, found.num_patients) for name, value in found.values.items()}
    return {
        name: _bca(value, found.replicates[name], found.without_one[name], found.num_patients, confidence)
        for name, value in found.values.items()
    }


def jackknife_intervals(
    statistics: Statistics,
    patients: Sequence[Hashable],
    *,
    most_groups: int = MOST_GROUPS,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Return normal intervals from the delete-a-group jackknife, over patients; no row is ever repeated.

    Patients are dealt at random into groups of equal size, give or take one; without more than ``most_groups``
    patients, each is a group. With h_g = P / (patients in group g) and the pseudo-values
    h_g T - (h_g - 1) T_(g), the squared standard error is the mean over groups of (pseudo-value - their mean)^2 /
    (h_g - 1) (Busing, Meijer & van der Leeden 1999, Delete-m jackknife for unequal m, Stat. Comput. 9:3; Kott 2001 for
    random groups). The value itself is not corrected for bias.

    A squared distance correlation should be given here, not its root, and its interval be mapped by
    `Estimate.transformed`: the root has no derivative at 0, so that its error is not normal there.

    Args:
        statistics: called with all rows in order, and with those of all groups of patients but one, in order.
        patients: patient of each row.
        most_groups: at least `MIN_PATIENTS`.
        confidence: in (0, 1).
        seed: deals the groups.

    Raises:
        ValueError: no row, too few groups, or a confidence out of range.
    """
    _check(NUM_REPLICATES, confidence)
    if most_groups < MIN_PATIENTS:
        raise ValueError(f"most_groups={most_groups} is not allowed; the jackknife needs at least {MIN_PATIENTS}")
    rows = rows_by_patient(patients)
    num_rows, num_patients = len(patients), len(rows)
    values = {name: _number(value) for name, value in statistics(np.arange(num_rows)).items()}
    if num_patients < MIN_PATIENTS:
        return {name: _few(value, num_patients) for name, value in values.items()}
    order = np.random.default_rng(seed).permutation(num_patients)
    groups = np.array_split(order, min(most_groups, num_patients))
    without = []
    for group in groups:
        left = np.concatenate([rows[patient] for patient in group])
        without.append(statistics(np.delete(np.arange(num_rows), left)))
    shares = np.array([num_patients / len(group) for group in groups])
    return {
        name: _normal(value, np.array([_number(each.get(name)) for each in without]), shares, num_patients, confidence)
        for name, value in values.items()
    }


def too_few_patients(n: int) -> str:
    """Return the reason why ``n`` patients give no interval."""
    return f"an interval needs at least {MIN_PATIENTS} patients; there are {n}"


def _bca(value: float, replicates_R: Floats, without_one_P: Floats, n: int, confidence: float) -> Estimate:
    from scipy.special import ndtr, ndtri

    if math.isnan(value):
        return _undefined(n)
    defined = replicates_R[~np.isnan(replicates_R)]
    missing = len(replicates_R) - len(defined)
    if missing > MOST_UNDEFINED * len(replicates_R):
        return Estimate(
            value, None, None, n, f"undefined in {missing} of {len(replicates_R)} resamples of {n} patients"
        )
    if np.isnan(without_one_P).any():
        return _rests_on_few(value, without_one_P, n, "patients")
    if _equal(defined):
        return _constant(value, n, f"all {len(defined)} resamples")
    below = _share_below(value, defined)
    if below in (0.0, 1.0):
        reason = f"the value lies outside all {len(defined)} resamples of {n} patients"
        return Estimate(value, None, None, n, reason)
    shift, tail = ndtri(below), ndtri(0.5 - 0.5 * confidence)
    acceleration = _acceleration(without_one_P)
    moved = shift + np.array([tail, -tail])
    # |acceleration| is at most 1/6: only a shift of more than 4 could make this 0
    levels = ndtr(shift + moved / np.maximum(1.0 - acceleration * moved, 1e-6))
    low, high = np.quantile(defined, levels)
    return Estimate(value, float(low), float(high), n)


def _share_below(value: float, replicates_R: Floats) -> float:
    """Return the share of replicates below a value; a tie counts half, as the value is one of its own replicates."""
    return float(np.sum(replicates_R < value) + np.sum(replicates_R <= value)) / (2 * len(replicates_R))


def _acceleration(without_one_P: Floats) -> float:
    influence = without_one_P.mean() - without_one_P
    length = np.sum(influence**2) ** 1.5
    return float(np.sum(influence**3) / (6.0 * length)) if length > 0.0 else 0.0


def _p_value(value: float, replicates_R: Floats, without_one_P: Floats) -> float:
    from scipy.special import ndtr, ndtri

    defined = replicates_R[~np.isnan(replicates_R)]
    half = 0.5 / len(defined)
    below_zero = min(max(_share_below(0.0, defined), half), 1.0 - half)
    shift = ndtri(_share_below(value, defined))
    moved = ndtri(below_zero) - shift
    # beyond this, no level of the interval reaches 0
    level = float(ndtr(moved / max(1.0 + _acceleration(without_one_P) * moved, 1e-6) - shift))
    return min(1.0, 2.0 * min(level, 1.0 - level))


def _normal(value: float, without_G: Floats, shares_G: Floats, n: int, confidence: float) -> Estimate:
    from scipy.special import ndtri

    if math.isnan(value):
        return _undefined(n)
    if np.isnan(without_G).any():
        return _rests_on_few(value, without_G, n, "groups of patients")
    if _equal(without_G):
        return _constant(value, n, f"the statistic without any one of {len(without_G)} groups")
    pseudo_G = shares_G * value - (shares_G - 1.0) * without_G
    error = math.sqrt(np.mean((pseudo_G - pseudo_G.mean()) ** 2 / (shares_G - 1.0)))
    reach = float(ndtri(0.5 + 0.5 * confidence)) * error
    return Estimate(value, value - reach, value + reach, n)


@lru_cache(maxsize=4)  # many statistics of the same patients have the same resamples
def _counts(num_patients: int, num_replicates: int, seed: int) -> Floats:
    """Return how often each resample [R, P] draws each patient; not to be changed."""
    places_RP = _draws(num_patients, num_replicates, seed)
    places_RP += num_patients * np.arange(num_replicates)[:, None]  # in place: there may be millions
    whole_RP = np.bincount(places_RP.ravel(), minlength=places_RP.size).reshape(places_RP.shape)
    del places_RP
    counts_RP = whole_RP.astype(np.float64)
    counts_RP.setflags(write=False)
    return counts_RP


def _draws(num_patients: int, num_replicates: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, num_patients, size=(num_replicates, num_patients))


def _number(value: float | None) -> float:
    return math.nan if value is None or not math.isfinite(value) else float(value)


def _equal(values: Floats) -> bool:
    return bool(np.ptp(values) <= 1e-12 * np.max(np.abs(values)))


def _undefined(n: int) -> Estimate:
    return Estimate(None, None, None, n, f"undefined for these {n} patients")


def _few(value: float, n: int) -> Estimate:
    if math.isnan(value):
        return _undefined(n)
    return Estimate(value, None, None, n, too_few_patients(n))


def _rests_on_few(value: float, without: Floats, n: int, units: str) -> Estimate:
    missing = int(np.isnan(without).sum())
    reason = f"undefined without one of {missing} of {len(without)} {units}, so that it rests on too few"
    return Estimate(value, None, None, n, reason)


def _constant(value: float, n: int, what: str) -> Estimate:
    reason = f"{what} gave {value:.6g}: {n} patients do not vary enough for an interval"
    return Estimate(value, None, None, n, reason)


def _check(num_replicates: int, confidence: float) -> None:
    if num_replicates < 100:
        raise ValueError(f"num_replicates={num_replicates} is not allowed; a 95 % interval needs at least 100")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence={confidence} is not allowed; it must lie between 0 and 1")
