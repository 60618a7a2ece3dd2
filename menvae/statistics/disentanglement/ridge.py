"""Ridge regression scored by leave-one-out, in closed form, and the factors as its regressors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

PENALTIES = (1e-6, 1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.3, 1.0, 10.0)
"""Ridge penalties per row and unit variance of the regressors; each response takes the one that predicts it best."""

FEWEST_ROWS = 8
"""With fewer rows, nothing can be read."""

SIGNIFICANCE = 2.0
"""Standard errors by which the squared error must fall; otherwise the R2 counts as 0. A few chance readings
of 0.01 would otherwise lower entropies by several hundredths."""

GROUP_SIGNIFICANCE = 4.0
"""The same for the clearest of all R2 of a code group; otherwise all of them count as 0. Scores are ratios, so that a
single chance reading of a noise code would make it look ideal. Of noise code groups with 8 to 84 dimensions, for 8
factors, 2.6 % of 1,200 passed with 24 rows, none of 800 with 64 rows and none of 160 with 256 rows."""


@dataclass(frozen=True)
class Fit:
    """Linear readings of K responses.

    Attributes:
        r2: leave-one-out R2 [K] from 0 to 1; 0 if not significant.
        clarity: fall of the squared error in units of its standard error [K].
        fitted: fitted values [N, K] at the chosen penalties.
    """

    r2: Floats
    clarity: Floats
    fitted: Floats


def standardised(columns: Floats) -> Floats:
    """Return the columns that vary, with mean 0 and variance 1 [N, at most D].

    >>> standardised(np.array([[1.0, 7.0], [3.0, 7.0]]))
    array([[-1.],
           [ 1.]])
    """
    centred = columns - columns.mean(axis=0)
    sd = centred.std(axis=0)
    alive = sd > 1e-7 * np.maximum(1e-3, np.abs(columns).max(axis=0, initial=0.0))
    return np.asarray(centred[:, alive] / sd[alive], dtype=np.float64)


def whitened(columns: Floats, most: int) -> Floats:
    """Return the leading principal components of the standardised columns, each of variance 1 [N, at most ``most``].

    Components below 1e-10 of the total variance, such as those of duplicated columns, are dropped.
    """
    left, singular, _ = np.linalg.svd(standardised(columns), full_matrices=False)
    kept = int((singular**2 > 1e-10 * np.square(singular).sum()).sum())
    return np.asarray(left[:, : min(kept, most)] * np.sqrt(len(columns)), dtype=np.float64)


def ridge(regressors: Floats, responses: Floats) -> Fit:
    """Read responses from regressors by ridge regression with an intercept.

    The leave-one-out residual is (y_i - f_i) / (1 - h_ii) with the leverage h_ii. R2 compares its squares with those
    of the leave-one-out mean.

    Args:
        regressors: [N, D]; constant columns are ignored.
        responses: [N, K].

    Source: Allen 1974, prediction sum of squares (PRESS).

    >>> x = np.arange(10.0)[:, None]
    >>> ridge(x, np.hstack([2.0 * x, 0.0 * x])).r2.round(6)
    array([1., 0.])
    """
    num_rows, num_responses = responses.shape
    centre = responses.mean(axis=0)
    centred = responses - centre
    constant = np.broadcast_to(centre, responses.shape)
    columns = standardised(regressors)
    if num_rows < FEWEST_ROWS or not columns.shape[1]:
        nothing = np.zeros(num_responses)
        return Fit(nothing, nothing, constant.astype(np.float64))
    left, singular = _decomposed(columns)
    projected = left.T @ centred
    errors, fits = [], []
    for penalty in PENALTIES:
        kept = singular**2 / (singular**2 + penalty * num_rows)
        leverage = 1.0 / num_rows + np.square(left) @ kept
        fits.append(left @ (kept[:, None] * projected))
        errors.append((centred - fits[-1]) / np.maximum(1.0 - leverage, 1e-9)[:, None])
    best = np.argmin([np.square(error).sum(axis=0) for error in errors], axis=0)
    each = np.arange(num_responses)
    r2, clarity = _scored(centred * num_rows / (num_rows - 1), np.stack(errors)[best, :, each].T)
    varies = np.square(centred).sum(axis=0) > 1e-12 * np.maximum(1.0, np.square(responses).sum(axis=0))
    return Fit(np.where(varies, r2, 0.0), np.where(varies, clarity, 0.0), constant + np.stack(fits)[best, :, each].T)


def _scored(baseline: Floats, errors: Floats) -> tuple[Floats, Floats]:
    """Return R2 and clarity [K] of errors against those of the leave-one-out mean [N, K].

    With the prediction p = baseline - error, the squared error falls by p^2 + 2 p error, whose noise is 2 p error.
    """
    total = np.maximum(np.square(baseline).sum(axis=0), 1e-300)
    gain = total - np.square(errors).sum(axis=0)
    noise = 2.0 * np.sqrt(np.square((baseline - errors) * errors).sum(axis=0))
    clarity = gain / np.maximum(noise, 1e-12 * total)
    return np.where(clarity > SIGNIFICANCE, gain / total, 0.0), clarity


def _decomposed(columns: Floats) -> tuple[Floats, Floats]:
    """Return left singular vectors [N, R] and singular values [R]; small ones, far below any penalty, are dropped."""
    if columns.shape[1] > len(columns):
        left, singular, _ = np.linalg.svd(columns, full_matrices=False)
        return left, singular
    eigenvalues, right = np.linalg.eigh(columns.T @ columns)  # several times faster for many rows
    kept = eigenvalues > 1e-11 * eigenvalues[-1]
    singular = np.sqrt(eigenvalues[kept])
    return columns @ (right[:, kept] / singular), singular


def as_regressors(factors: Floats, observed: Bools) -> Floats:
    """Return factors [N, F] as regressors: mean for an unobserved value, and an indicator column where some are."""
    counts = np.maximum(observed.sum(axis=0), 1)
    means = np.where(observed, factors, 0.0).sum(axis=0) / counts
    return np.hstack([np.where(observed, factors, means), observed.astype(np.float64)])


@dataclass(frozen=True)
class Factors:
    """Groups of factors in one table.

    Attributes:
        values: [N, F], 0 where unobserved.
        observed: [N, F].
        group: index of the group of each column [F].
    """

    values: Floats
    observed: Bools
    group: NDArray[np.int64]

    @classmethod
    def joined(cls, factors: Sequence[Floats], observed: Sequence[Floats] | None) -> Factors:
        """Join groups; see `menvae.statistics.disentanglement.readings.readings`."""
        group = np.repeat(np.arange(len(factors)), [block.shape[1] for block in factors])
        values = np.hstack(list(factors))
        seen = np.ones(values.shape, bool) if observed is None else np.hstack(list(observed)) > 0
        return cls(np.where(seen, values, 0.0), seen, group)

    @property
    def num_groups(self) -> int:
        """Number of groups."""
        return int(self.group.max()) + 1

    def patterns(self) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Return (rows, columns) of the factors that were observed in the same rows, which share a decomposition."""
        unique, inverse = np.unique(self.observed, axis=1, return_inverse=True)
        found = [(np.flatnonzero(rows), np.flatnonzero(inverse == index)) for index, rows in enumerate(unique.T)]
        return [(rows, columns) for rows, columns in found if len(rows)]

    def regressors(self, *groups: int) -> Floats:
        """Return the factors of groups, of all if none is named, as regressors (see `as_regressors`)."""
        chosen = np.isin(self.group, groups) if groups else np.ones(len(self.group), bool)
        return as_regressors(self.values[:, chosen], self.observed[:, chosen])
