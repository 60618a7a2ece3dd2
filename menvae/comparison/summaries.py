"""Means over replicates, with intervals and tests by Student's t."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from scipy.special import stdtr, stdtrit

from menvae.comparison.results import Summary

CONFIDENCE = 0.95
"""Confidence level of every interval."""


def summarise(values: Mapping[str, float | None], overlap: float = 0.0) -> Summary:
    """Summarise a gate, or another number, over the replicates.

    Args:
        values: replicate -> value; None if it has none.
        overlap: see `menvae.comparison.replicates.overlap`.

    >>> summary = summarise({"0": 1.0, "1": 3.0, "2": None})
    >>> summary.mean, round(summary.deviation, 3), summary.missing
    (2.0, 1.414, 1)
    >>> [round(end, 2) for end in summary.interval]  # 2 -+ 12.706 sqrt(2) / sqrt(2)
    [-10.71, 14.71]
    """
    known = [value for value in values.values() if value is not None]
    return Summary(
        values=values,
        mean=statistics.fmean(known) if known else None,
        deviation=statistics.stdev(known) if len(known) > 1 else None,
        interval=mean_interval(known, overlap),
    )


def mean_interval(values: Sequence[float], overlap: float = 0.0) -> tuple[float, float] | None:
    """Return the confidence interval of the mean of values, by Student's t; None for fewer than two.

    Args:
        values: values of independent runs, or of folds.
        overlap: 0 for independent runs; for folds see `menvae.comparison.replicates.overlap`.

    >>> low, high = mean_interval([1.0, 2.0, 3.0])
    >>> round(low, 3), round(high, 3)
    (-0.484, 4.484)
    """
    if len(values) < 2:
        return None
    half = float(stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2)) * _error(values, overlap)
    mean = statistics.fmean(values)
    return mean - half, mean + half


def p_value(values: Sequence[float], overlap: float = 0.0) -> float | None:
    """Return the two-sided p-value of a mean of 0, by Student's t; None for fewer than two values, or if all are 0.

    Args:
        values: differences of independent runs, or of folds.
        overlap: as for `mean_interval`.

    >>> round(p_value([1.0, 2.0, 3.0]), 4)
    0.0742
    """
    if len(values) < 2 or not any(values):
        return None
    mean, error = statistics.fmean(values), _error(values, overlap)
    return float(2.0 * stdtr(len(values) - 1, -abs(mean) / error)) if error > 0.0 else 0.0


def _error(values: Sequence[float], overlap: float) -> float:
    """Return the standard error of the mean."""
    return statistics.stdev(values) * math.sqrt(1.0 / len(values) + overlap)
