"""Scores of forecasts, and intervals that hold without a model: conformal prediction.

Several forecasts of one patient depend on each other: wherever patients are given, each counts as one.

Shape suffixes: N forecasts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr
from scipy.stats import beta

Floats = NDArray[np.float64]


def crps_normal(mean_N: Floats, sd_N: Floats, value_N: Floats) -> Floats:
    """Return the continuous ranked probability score of normal forecasts [N], in the unit of the values.

    It is the absolute error of a forecast without spread (Gneiting et al. 2005, Mon Weather Rev 133:1098, equation 5).

    >>> float(crps_normal(np.array([1.0]), np.array([0.0]), np.array([3.0]))[0])
    2.0
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        z = (value_N - mean_N) / sd_N
        density = np.exp(-0.5 * z**2) / math.sqrt(2.0 * math.pi)
        score = sd_N * (z * (2.0 * ndtr(z) - 1.0) + 2.0 * density - 1.0 / math.sqrt(math.pi))
    return np.where(sd_N > 0.0, score, np.abs(value_N - mean_N))


def interval_score(low_N: Floats, high_N: Floats, value_N: Floats, level: float) -> Floats:
    """Return the width of each interval, plus 2 / (1 - level) times the distance of a value outside it [N].

    Source: Gneiting & Raftery 2007, JASA 102:359, equation 43.

    >>> interval_score(np.array([0.0, 0.0]), np.array([1.0, 1.0]), np.array([0.5, 1.5]), 0.5).tolist()
    [1.0, 3.0]
    """
    outside = np.maximum(low_N - value_N, 0.0) + np.maximum(value_N - high_N, 0.0)
    return high_N - low_N + 2.0 / (1.0 - level) * outside


def binomial_interval(successes: float, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Return the interval of Clopper & Pearson 1934 of a probability.

    Args:
        successes: a sum of ``trials`` independent numbers from 0 to 1, such as the share of successes of each patient.
            Such a number varies at most as much as one that is 0 or 1: the interval is then wide enough.
        trials: at least one.
        level: of the interval.

    >>> [round(end, 4) for end in binomial_interval(9, 10)]
    [0.555, 0.9975]
    """
    tail = 0.5 * (1.0 - level)
    low = beta.ppf(tail, successes, trials - successes + 1) if successes > 0 else 0.0
    high = beta.ppf(1.0 - tail, successes + 1, trials - successes) if successes < trials else 1.0
    return float(low), float(high)


def exceedance(mean_N: Floats, sd_N: Floats, threshold_N: Floats) -> Floats:
    """Return the probability of values above thresholds, of normal forecasts [N]."""
    probability: Floats = ndtr((mean_N - threshold_N) / sd_N)
    return probability


def conformal_rank(num: int, level: float) -> int | None:
    """Return which of ``num`` sorted scores bounds a new one with a probability of ``level``, from 1; None: none does.

    It is ceil((num + 1) level), of the number that is written: in floating point, 20 * 0.95 may exceed 19.

    >>> conformal_rank(19, 0.95), conformal_rank(18, 0.95)
    (19, None)
    """
    rank = math.ceil(_written(level) * (num + 1))
    return rank if rank <= num else None


def fewest_scores(level: float) -> int:
    """Return how many scores bound a new one with a probability of ``level``.

    >>> fewest_scores(0.95), fewest_scores(0.5)
    (19, 1)
    """
    exact = _written(level)
    return math.ceil(exact / (1 - exact))


def conformal_bound(scores_N: Floats, level: float, patients: Sequence[Hashable] | None = None) -> float:
    """Return a bound that a new score does not exceed with a probability of ``level``; infinite with too few scores.

    With several scores of a patient, the new one is any of a new patient's. Each of P patients has the weight
    1 / (P + 1), of which each of his scores has the same share (Lee, Barber & Willett 2023, arXiv:2306.06342,
    equation 5). With one score each, the bound is the one of Vovk, Gammerman & Shafer 2005.

    Args:
        scores_N: errors, such as over what was expected of them.
        level: such as 0.95.
        patients: of each score; None: each is of another one.

    >>> conformal_bound(np.array([1.0, 2.0, 3.0]), 0.75), conformal_bound(np.array([1.0, 2.0, 3.0]), 0.76)
    (3.0, inf)
    """
    owners = range(len(scores_N)) if patients is None else patients
    counts = Counter(owners)
    whole = math.lcm(*counts.values())  # weight of a patient, so that all weights are integers
    needed = _written(level) * (len(counts) + 1) * whole
    reached = 0
    for score, owner in sorted(zip(scores_N.tolist(), owners, strict=True), key=lambda pair: pair[0]):
        reached += whole // counts[owner]
        if reached >= needed:
            return float(score)
    return math.inf


def jackknife_plus(
    mean_N: Floats, scale_N: Floats, scores_N: Floats, level: float, patients: Sequence[Hashable] | None = None
) -> tuple[float, float]:
    """Return the interval of a new value from models, each of which lacks one of the other patients.

    Its probability is at least 2 level - 1, and in practice about ``level`` (Barber et al. 2021, Ann Stat 49:486).

    Args:
        mean_N: forecast of the new value by the model without the patient of each score.
        scale_N: scale of its error, such as a standard deviation; 1 for intervals of the same width.
        scores_N: error of that model at a value of the patient that it lacks, over its scale there.
        level: such as 0.95.
        patients: of each score; None: each is of another one. For several of a patient see `conformal_bound`.
    """
    reach_N = scores_N * scale_N
    low = -conformal_bound(reach_N - mean_N, level, patients)
    return low, conformal_bound(mean_N + reach_N, level, patients)


def _written(level: float) -> Fraction:
    """Return the number that is written, such as 19/20 for 0.95."""
    return Fraction(str(level))
