"""Disentanglement, completeness and informativeness (DCI)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from menvae.statistics.disentanglement.readings import Readings
from menvae.statistics.disentanglement.ridge import Floats


class Dci(NamedTuple):
    """Three scores from 0 to 1.

    Attributes:
        disentanglement: does each code group say something of one factor group only?
        completeness: is each factor group said by one code group only?
        informativeness: how much of the factors do all code groups say together?
    """

    disentanglement: float
    completeness: float
    informativeness: float


def dci(read: Readings) -> Dci:
    """DCI from the semipartial R2 P [S, G] of G factor groups.

    With H the entropy of a row or column after division by its sum:
    disentanglement = sum_s w_s (1 - H(P_s.) / ln G), w_s = sum_g P_sg / sum_sg P_sg;
    completeness = mean_g max(0, 1 - H(P_.g) / ln G), 0 for a factor group that nothing says;
    informativeness = mean R2 of each group from all code groups.

    Deviations: logarithms have base G for completeness too, as the number of code groups would let dead ones count;
    all are 0 for noise; the importance is an R2 instead of a weight of a model.

    Source: Eastwood & Williams 2018.

    >>> def read(p, q):
    ...     return Readings(np.array([[p, q], [q, p]]), np.ones(2), np.ones(2), np.arange(2))
    >>> dci(read(1.0, 0.0))
    Dci(disentanglement=1.0, completeness=1.0, informativeness=1.0)
    >>> dci(read(0.5, 0.5))
    Dci(disentanglement=0.0, completeness=0.0, informativeness=1.0)
    """
    importance = read.importance
    said = importance.sum(axis=1)
    total = said.sum()
    rows = concentration(importance)
    return Dci(
        float((said * rows).sum() / total) if total > 0 else 0.0,
        float(concentration(importance.T, importance.shape[1]).mean()),
        float(read.per_group(read.joint).mean()),
    )


def concentration(rows: Floats, base: int | None = None) -> Floats:
    """Return 1 - H / ln ``base`` of each row, at least 0; 0 for rows of zeros. ``base``: by default their length."""
    sums = rows.sum(axis=1, keepdims=True)
    shares = np.divide(rows, sums, out=np.zeros_like(rows), where=sums > 0)
    entropy = -(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(axis=1)
    return np.where(sums[:, 0] > 0, np.clip(1.0 - entropy / np.log(base or rows.shape[1]), 0.0, 1.0), 0.0)
