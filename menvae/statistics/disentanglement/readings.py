"""What code groups say of factors, where factors may depend on each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from menvae.statistics.disentanglement.ridge import GROUP_SIGNIFICANCE, Factors, Floats, ridge, standardised

RESOLUTION_SQR = 0.01
"""Squared resolution of a factor in units of its variance: information is counted in steps of a tenth of its standard
deviation. Without a resolution, the entropy that normalises information would be infinite."""

ROWS_PER_FEATURE = 4
"""The quadratic probe has at most one feature per so many rows."""


@dataclass(frozen=True)
class Readings:
    """R2 of each factor, leave-one-out, from S code groups.

    Attributes:
        semipartial: R2 [S, F] from each code group, of the part of a factor that the own factor group of this code
            group does not explain, in units of the whole variance of the factor; of own factors, the plain R2.
        joint: R2 [F] from all code groups.
        quadratic: R2 [F] from all code groups, their squares and products; at least ``joint``.
        group: index of the factor group of each factor [F], from 0 to G - 1.
    """

    semipartial: Floats
    joint: Floats
    quadratic: Floats
    group: NDArray[np.int64]

    def per_group(self, values: Floats) -> Floats:
        """Return the mean over the factors of each group, [..., F] -> [..., G]."""
        means = [values[..., self.group == index].mean(axis=-1) for index in range(int(self.group.max()) + 1)]
        return np.stack(means, axis=-1)

    @property
    def importance(self) -> Floats:
        """Mean semipartial R2 of each factor group from each code group [S, G]."""
        return self.per_group(self.semipartial)

    @property
    def normalised_information(self) -> Floats:
        """Mean `normalised_information` of each factor group from each code group [S, G]."""
        return self.per_group(normalised_information(self.semipartial))


def normalised_information(r2: Floats) -> Floats:
    """Information about a Gaussian factor, divided by its entropy, both at a finite resolution; from 0 to 1.

    A factor v of variance 1 is known as v + e n with n ~ N(0, 1) and e^2 = `RESOLUTION_SQR`. Then a code that explains
    R2 of v has -ln(1 - R2 / (1 + e^2)) / 2 nats, and v itself ln(1 + 1 / e^2) / 2 nats.

    >>> normalised_information(np.array([0.0, 0.5, 0.9, 1.0])).round(3)
    array([0.   , 0.148, 0.48 , 1.   ])
    """
    nats = -0.5 * np.log1p(-np.clip(r2, 0.0, 1.0) / (1.0 + RESOLUTION_SQR))
    return np.asarray(nats / (0.5 * np.log1p(1.0 / RESOLUTION_SQR)), dtype=np.float64)


def readings(codes: Sequence[Floats], factors: Sequence[Floats], observed: Sequence[Floats] | None = None) -> Readings:
    """Measure what each code group says of each factor.

    With dependent factors, even an ideal code group says something of foreign factors, as much as its own factors do.
    This is no fault of the code. Let g be the own factor group of code group s. Of a factor v of another group, only
    u = v - E[v | V_g] counts: the squared semipartial correlation R2(u | z_s) Var(u) / Var(v). It is 0 if z_s depends
    on v only through V_g, whatever the noise, and the plain R2 if factors are independent. The own group of s is the
    one that leaves the least of all others; among equals, the one read best.

    Args:
        codes: S code groups [N, D_s].
        factors: G >= 2 factor groups [N, F_g].
        observed: positive where a factor was observed [N, F_g], of each group; None: everywhere.

    Raises:
        ValueError: fewer than two factor groups.

    Source: semipartial correlation: Cohen & Cohen 1983. That a code group may depend on foreign factors
    through its own: minimality, Almudevar et al. 2024. Its use for all scores is menvae's.

    >>> rng = np.random.default_rng(0)
    >>> v = rng.normal(size=(500, 1)); w = 0.8 * v + 0.6 * rng.normal(size=(500, 1))
    >>> readings([v, w], [v, w]).importance.round(2)
    array([[1., 0.],
           [0., 1.]])
    """
    if len(factors) < 2:
        raise ValueError(f"factors: {len(factors)} group(s); at least 2 are needed")
    table = Factors.joined(factors, observed)
    num_factors = len(table.group)
    left = [_left_by(table, own) for own in range(table.num_groups)]
    of_codes = [_semipartial(code, table, left) for code in codes]
    whole = np.hstack(list(codes))
    joint, quadratic = np.zeros(num_factors), np.zeros(num_factors)
    for rows, columns in table.patterns():
        responses = table.values[np.ix_(rows, columns)]
        joint[columns] = ridge(whole[rows], responses).r2
        quadratic[columns] = np.maximum(joint[columns], ridge(quadratic_features(whole[rows]), responses).r2)
    return Readings(np.stack(of_codes), joint, quadratic, table.group)


def quadratic_features(code: Floats) -> Floats:
    """Return leading principal components, their squares and products, at most one per `ROWS_PER_FEATURE` rows.

    Components are of the code as it is, not standardised: collapsed dimensions of a VAE have small variances.
    """
    num_rows = len(code)
    if num_rows < 2 * ROWS_PER_FEATURE:
        return code
    left, singular, _ = np.linalg.svd(code - code.mean(axis=0), full_matrices=False)
    alive = int((singular**2 > 1e-10 * max(float(np.square(singular).sum()), 1e-30)).sum())
    most = int((np.sqrt(9.0 + 8.0 * num_rows / ROWS_PER_FEATURE) - 3.0) / 2.0)  # k (k + 3) / 2 features
    components = standardised(left[:, : min(alive, most)])
    rows, columns = np.triu_indices(components.shape[1])
    return np.hstack([components, components[:, rows] * components[:, columns]])


def _left_by(table: Factors, own: int) -> Floats:
    """Return what the factors of one group do not explain of each factor [N, F]; own factors are left as they are."""
    regressors = table.regressors(own)
    left = table.values.copy()
    for column in np.flatnonzero(table.group != own):
        rows = table.observed[:, column]
        left[rows, column] -= ridge(regressors[rows], table.values[rows, column : column + 1]).fitted[:, 0]
    return left


def _semipartial(code: Floats, table: Factors, left: Sequence[Floats]) -> Floats:
    """Return the semipartial R2 [F] from one code group, for the own group that leaves the least."""
    candidates, clearest = np.zeros((table.num_groups, len(table.group))), 0.0
    for rows, columns in table.patterns():
        responses = np.stack([of_group[np.ix_(rows, columns)] for of_group in left])
        fit = ridge(code[rows], np.hstack(list(responses)))
        r2, clearest = fit.r2.reshape(len(left), -1), max(clearest, float(fit.clarity.max()))
        variance = table.values[np.ix_(rows, columns)].var(axis=0)
        shares = np.divide(responses.var(axis=1), variance, out=np.zeros_like(r2), where=variance > 0.0)
        candidates[:, columns] = r2 * shares
    if clearest < GROUP_SIGNIFICANCE:
        return np.zeros(len(table.group))
    own = table.group == np.arange(table.num_groups)[:, None]
    sizes = np.bincount(table.group)[table.group]  # each group counts as one, however many factors it has
    foreign = np.where(own, 0.0, candidates / sizes).sum(axis=1)
    itself = np.where(own, candidates / sizes, 0.0).sum(axis=1)
    return np.asarray(candidates[np.lexsort((-itself, foreign.round(9)))[0]], dtype=np.float64)
