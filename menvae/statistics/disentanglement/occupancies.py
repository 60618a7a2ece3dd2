"""What factors determine of each code group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from menvae.statistics.disentanglement.ridge import GROUP_SIGNIFICANCE, Factors, Floats, ridge, whitened

ROWS_PER_COMPONENT = 4
"""A code group is reduced to at most one principal component per so many rows."""


@dataclass(frozen=True)
class Occupancies:
    """Numbers of code directions that factors determine: sums of squared canonical correlations (Pillai's trace).

    Attributes:
        by_group: directions of each code group that each factor group alone determines [S, G].
        by_all: directions of each code group that all factors determine [S].
        num_rows: N.
        num_factors: F.
    """

    by_group: Floats
    by_all: Floats
    num_rows: int
    num_factors: int

    @property
    def shares(self) -> Floats:
        """Share of the factor-driven part of each code group that each factor group alone determines [S, G].

        0 for code groups that depend on no factor.
        """
        some = self.by_all > 0.0
        shares = np.divide(self.by_group, self.by_all[:, None], out=np.zeros_like(self.by_group), where=some[:, None])
        return np.clip(shares, 0.0, 1.0)

    @property
    def tie(self) -> float:
        """Difference below which two shares count as equal: two standard errors of a correlation, at least 0.02."""
        return max(0.02, 2.0 / float(np.sqrt(self.num_rows)))


def occupancies(
    codes: Sequence[Floats], factors: Sequence[Floats], observed: Sequence[Floats] | None = None
) -> Occupancies:
    """Count the code directions that factors determine.

    Each code group is whitened, so that neither scale nor rotation nor duplicated dimensions matter; noise dimensions
    add 0. R2 is leave-one-out, and 0 if not significant.

    Args:
        codes: S code groups [N, D_s].
        factors: G >= 2 factor groups [N, F_g].
        observed: positive where a factor was observed [N, F_g], of each group; None: everywhere.

    Raises:
        ValueError: fewer than two factor groups.

    Source: Pillai 1955.

    >>> rng = np.random.default_rng(0)
    >>> v, w, noise = rng.normal(size=(3, 500, 1))
    >>> occupancies([np.hstack([v, w]), noise], [v, w]).by_all.round(2)
    array([2., 0.])
    """
    if len(factors) < 2:
        raise ValueError(f"factors: {len(factors)} group(s); at least 2 are needed")
    table = Factors.joined(factors, observed)
    regressors = [table.regressors(group) for group in range(table.num_groups)]
    everything = table.regressors()
    by_group, by_all = np.zeros((len(codes), table.num_groups)), np.zeros(len(codes))
    for row, code in enumerate(codes):
        directions = whitened(code, max(1, len(code) // ROWS_PER_COMPONENT))
        fits = [ridge(some, directions) for some in (everything, *regressors)]
        read = [ridge(code[rows], table.values[np.ix_(rows, columns)]) for rows, columns in table.patterns()]
        if max(float(fit.clarity.max(initial=0.0)) for fit in (*fits, *read)) >= GROUP_SIGNIFICANCE:
            by_group[row] = [fit.r2.sum() for fit in fits[1:]]
            by_all[row] = max(float(fit.r2.sum()) for fit in fits)
    return Occupancies(by_group, by_all, len(table.values), len(table.group))
