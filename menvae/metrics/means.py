"""Metrics that are means over rows, or functions of such means."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np

from menvae.metrics import ERRORS, Floats, Means, Metric, SplitRecord

Pair = tuple[Floats, Floats]
"""Numerators and denominators of the rows [N]."""


class MetricOfMeans(Metric):
    """A metric whose values are functions of means over the rows of a split."""

    @abstractmethod
    def means(self, record: SplitRecord) -> Means:
        """Return the rows that are averaged, and the values as functions of their means."""

    def compute(self, record: SplitRecord) -> dict[str, float | None]:
        """Return the values at the means over all rows; None where they are undefined."""
        return at_all_rows(self.means(record))


def at_all_rows(means: Means) -> dict[str, float | None]:
    """Return the values at the means over all rows; None where they are not finite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found = means.values(means.rows.mean(axis=0, keepdims=True))
    return {key: float(values[0]) if np.isfinite(values[0]) else None for key, values in found.items()}


def errors_of(record: SplitRecord) -> dict[str, Floats]:
    """Return z of `menvae.metrics.ERRORS` -> errors [N], NaN for a z that subjects were not decoded from."""
    missing = np.full(len(record.subject_id), np.nan)
    return dict.fromkeys(ERRORS, missing) | record.by_partition("errors")


def observed(values: Floats, known: Floats | None = None) -> Pair:
    """Return the pair of `ratios` for the mean of values [N], over the rows that are not NaN, and known if given.

    The mean is undefined with an infinite value.

    >>> at_all_rows(ratios({"mean": observed(np.array([2.0, np.nan, 4.0]))}))
    {'mean': 3.0}
    """
    counts = ~np.isnan(values) if known is None else ~np.isnan(values) & (known > 0)
    if np.isinf(values[counts]).any():
        counts = np.zeros_like(counts)
    return np.where(counts, values, 0.0), counts.astype(np.float64)


def paired(foreign: Floats, own: Floats) -> Pair:
    """Return the pair of `ratios` that divides the mean of ``foreign`` by that of ``own``, over rows [N] with both.

    >>> pair = paired(np.array([2.0, np.nan, 4.0]), np.array([1.0, 1.0, 2.0]))
    >>> at_all_rows(ratios({"ratio": pair}))
    {'ratio': 2.0}
    """
    both = np.isfinite(foreign) & np.isfinite(own)
    return np.where(both, foreign, 0.0), np.where(both, own, 0.0)


def ratios(pairs: Mapping[str, Pair]) -> Means:
    """Return key -> mean of the numerators divided by the mean of the denominators, undefined if that is 0.

    Args:
        pairs: key -> numerators and denominators [N]; rows with a denominator of 0 do not count.
    """
    keys, size = list(pairs), len(pairs)
    tops, bottoms = ([pair[side] for pair in pairs.values()] for side in (0, 1))
    return Means(
        np.stack([*tops, *bottoms], axis=1),
        lambda means: {key: _divided(means[:, place], means[:, size + place]) for place, key in enumerate(keys)},
        {key: bottom != 0.0 for key, (_, bottom) in pairs.items()},
    )


def moments(values: Floats) -> Floats:
    """Return rows [N, 2 M] whose means are the first two moments of values [N, M], centred to keep their digits."""
    centred = values - values.mean(axis=0)
    return np.concatenate([centred, centred**2], axis=1)


def variances(means: Floats) -> Floats:
    """Return variances [R, M] from the means of `moments` [R, 2 M]."""
    first, second = np.split(means, 2, axis=1)
    return np.maximum(second - first**2, 0.0)


def mean_of_some(values: Sequence[Floats], fewest: float = 0.0) -> Floats:
    """Return the mean [R] of those of several values [R] that are defined; NaN if none, or fewer than ``fewest``, are.

    >>> mean_of_some([np.array([1.0, np.nan]), np.array([3.0, np.nan])])
    array([ 2., nan])
    """
    stacked = np.stack(values)
    known = np.isfinite(stacked)
    counts = known.sum(axis=0)
    total = np.where(known, stacked, 0.0).sum(axis=0)
    return np.where(counts >= max(fewest, 1), total / np.maximum(counts, 1), np.nan)


def _divided(top: Floats, bottom: Floats) -> Floats:
    return np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0.0)
