"""Probes: regressions that ask what codes say about targets, for thousands of columns of targets at once.

A probe is built from the codes of the rows that it is fitted on and of the rows that it predicts; all linear algebra
that depends only on the codes is done then. `predict` takes the targets of the fitted rows as columns, so that permuted
targets, which give the null distribution, cost little more than matrix products. Nothing of the predicted rows but
their codes is read.

`RidgeProbe` sees what is linear in the codes. `QuadraticProbe` adds to it, in this order,

- features chosen by their correlation with the residual: squares and products of pairs of dimensions, and cosines of
  the rank of each dimension and principal component (sure independence screening, Fan & Lv 2008, J. R. Stat. Soc. B
  70:849, in rounds);
- a product of two linear forms of the whitened codes, which is found in the extreme eigenvectors of the principal
  Hessian E[residual w w'] (Li 1992, JASA 87:1025), for any rotation of the codes, and refined by alternating ridge
  regressions. It is added if an eigenvalue exceeds the noise, whose largest is about 2 sqrt(P / N), and if a product
  fitted to three quarters of the patients predicts the others; its slope there shrinks it.

Both steps take nothing unless it exceeds the level of noise, so that the probe falls back to the ridge.

It cannot see: products of three or more dimensions; what oscillates, or is odd and not linear, along a direction that
is neither a dimension nor a principal component; rotated products if there are fewer than about four patients for each
dimension; a quadratic form of many weak directions, each below the noise; and dependence that does not move the
conditional mean, such as a code |v| for a target v of symmetric distribution, for which no regression has any R2.

Shape suffixes: N fitted rows, M predicted rows, P dimensions, R principal components, F features, C columns of targets,
K chosen features.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]

PENALTIES = np.logspace(-4.0, 3.0, 15)
"""Candidate penalties of the ridge, for each row."""
MOST_FREEDOM = 0.9
"""Largest share of the rows that the ridge may use as degrees of freedom; generalised cross-validation needs a rest."""
MOST_DIMENSIONS = 128
"""Products are taken of as many dimensions; if there are more, of the leading principal components."""
FREQUENCIES = 8
"""Cosines of each rank; the last has four periods."""
LARGEST = 4.0
"""Products see standardised codes up to this size, so that no outlier decides."""
ROUNDS = 3
"""Rounds of choosing features."""
MOST_CHOSEN = 6
"""Largest number of features chosen in a round."""
PATIENTS_PER_DIRECTION = 3
"""Patients needed for each whitened direction."""
MARGIN = 3.0
"""The edge of the noise varies by about P^(-2/3) of itself (Tracy & Widom 1994); signal is this much of it above."""
ALTERNATIONS = 3
"""Refinements of a product of two linear forms."""
INNER_FOLDS = 4
"""One patient in so many judges whether such a product helps, before it is fitted on all rows."""
INNER_DEVIATIONS = 2.0
"""Standard errors by which it must correlate with the target there."""
SCREENING_DEVIATIONS = 1.0
"""Standard errors there that make a product worth fitting: most columns of noise have fewer."""
POWER_STEPS = 8
"""Products with a matrix whose extreme eigenvectors are wanted."""


def num_values(num_rows: int, num_dimensions: int) -> int:
    """Return about how many values the features of a `QuadraticProbe` have.

    >>> num_values(100, 2)
    3500
    """
    pairs = min(num_dimensions, MOST_DIMENSIONS)
    return num_rows * (pairs * (pairs + 1) // 2 + 2 * FREQUENCIES * num_dimensions)


class RidgeProbe:
    """Ridge regression on standardised codes; the penalty of each column minimises generalised cross-validation.

    Golub, Heath & Wahba 1979, Technometrics 21:215. Constant dimensions are left out.
    """

    def __init__(self, codes_NP: Floats, held_MP: Floats) -> None:
        """Args: codes_NP: codes of the fitted rows. held_MP: codes of the rows to predict."""
        mean, deviation = codes_NP.mean(axis=0), codes_NP.std(axis=0)
        live = deviation > 1e-9 * np.maximum(np.abs(mean), np.max(deviation, initial=0.0))
        self.codes_NP = (codes_NP[:, live] - mean[live]) / deviation[live]
        self.held_MP = (held_MP[:, live] - mean[live]) / deviation[live]
        left_NR, singular_R, right_RP = np.linalg.svd(self.codes_NP, full_matrices=False)
        kept = singular_R > 1e-7 * np.max(singular_R, initial=0.0)
        singular_R, self.left_NR = singular_R[kept], left_NR[:, kept]
        self.held_MR = self.held_MP @ (right_RP[kept].T / singular_R)
        shrinkage_AR = singular_R**2 / (singular_R**2 + len(codes_NP) * PENALTIES[:, None])
        freedom_A = 1.0 + shrinkage_AR.sum(axis=1)
        allowed = freedom_A <= MOST_FREEDOM * len(codes_NP)
        allowed[-1] = True
        self._shrinkage_AR, self._freedom_A = shrinkage_AR[allowed], freedom_A[allowed]

    def predict(self, targets_NC: Floats) -> Floats:
        """Fit each column and return the predictions of the held rows [M, C].

        Args:
            targets_NC: finite.
        """
        return self.fit(targets_NC)[0]

    def fit(self, targets_NC: Floats) -> tuple[Floats, Floats]:
        """Return the predictions of the held rows [M, C] and the residuals of the fitted rows [N, C]."""
        mean_C = targets_NC.mean(axis=0)
        centred_NC = targets_NC - mean_C
        coefficients_RC = self.left_NR.T @ centred_NC
        explained_AC = (2.0 * self._shrinkage_AR - self._shrinkage_AR**2) @ coefficients_RC**2
        rest_AC = np.sum(centred_NC**2, axis=0) - explained_AC
        best_C = np.argmin(rest_AC / (len(targets_NC) - self._freedom_A[:, None]) ** 2, axis=0)
        coefficients_RC *= self._shrinkage_AR[best_C].T
        return mean_C + self.held_MR @ coefficients_RC, centred_NC - self.left_NR @ coefficients_RC


class QuadraticProbe:
    """A ridge, chosen products and cosines, and a product of two linear forms; see the module."""

    def __init__(self, ridge: RidgeProbe, groups_N: NDArray[np.intp] | None = None) -> None:
        """Prepare the features.

        Args:
            ridge: probe of the same rows, whose decomposition is used again.
            groups_N: patient of each fitted row, whose visits are no evidence of each other; None: every row is one.
        """
        self._ridge = ridge
        groups_N = np.arange(len(ridge.codes_NP)) if groups_N is None else np.unique(groups_N, return_inverse=True)[1]
        self._num_groups = len(np.unique(groups_N))
        self._inner_N = groups_N % INNER_FOLDS == 0
        num_rows = len(ridge.codes_NP)
        whitened_NR = _signed(ridge.left_NR) * np.sqrt(num_rows)
        held_MR = ridge.held_MR * (whitened_NR[0] / np.where(ridge.left_NR[0] == 0.0, 1.0, ridge.left_NR[0]))
        reach_R = np.abs(whitened_NR).max(axis=0, initial=0.0)
        held_MR = np.clip(held_MR, -reach_R, reach_R)
        few = ridge.codes_NP.shape[1] <= MOST_DIMENSIONS
        factors = (ridge.codes_NP, ridge.held_MP) if few else (whitened_NR, held_MR)
        pairs = np.triu_indices(min(factors[0].shape[1], MOST_DIMENSIONS))
        clipped = [np.clip(rows, -LARGEST, LARGEST).T.astype(np.float32) for rows in factors]
        fit, held = ([rows[pairs[0]] * rows[pairs[1]]] for rows in clipped)
        for codes_NP, others_MP in ((ridge.codes_NP, ridge.held_MP), (whitened_NR, held_MR)):
            fit.append(_cosines(codes_NP, codes_NP))
            held.append(_cosines(codes_NP, others_MP))
        self._fit_FN, self._held_FM = _normalised(np.concatenate(fit), np.concatenate(held))
        self._level = float(np.sqrt(2.0 * np.log(max(2, len(self._fit_FN))) / self._num_groups))
        kept = min(whitened_NR.shape[1], self._num_groups // PATIENTS_PER_DIRECTION)
        self._whitened_NR = whitened_NR[:, :kept].astype(np.float32)
        self._held_MR = held_MR[:, :kept].astype(np.float32)

    def predict(self, targets_NC: Floats) -> Floats:
        """Fit each column and return the predictions of the held rows [M, C].

        Args:
            targets_NC: finite.
        """
        return self.refine(*self._ridge.fit(targets_NC))

    def refine(self, predicted_MC: Floats, residuals_NC: Floats) -> Floats:
        """Return the predictions of the held rows [M, C], from what `RidgeProbe.fit` returned for the same rows."""
        size_C = np.linalg.norm(residuals_NC, axis=0)
        size_C = np.where(size_C > 0.0, size_C, 1.0)
        rest_CN = np.ascontiguousarray((residuals_NC / size_C).T, dtype=np.float32)
        more_CM = np.zeros((len(size_C), len(predicted_MC)), dtype=np.float32)
        self._add_features(rest_CN, more_CM)
        self._add_product(rest_CN, more_CM)
        return predicted_MC + more_CM.T * size_C

    def _add_features(self, rest_CN: Floats32, more_CM: Floats32) -> None:
        """Regress columns on the features that correlate with them; both arguments are updated."""
        columns = np.arange(len(rest_CN))
        start_CN = rest_CN.copy()
        chosen: dict[int, list[int]] = {}
        for _ in range(ROUNDS):
            correlations_FC = self._fit_FN @ rest_CN[columns].T
            correlations_FC /= np.maximum(np.linalg.norm(rest_CN[columns], axis=1), 1e-12)
            found = _largest(correlations_FC, self._level, MOST_CHOSEN)
            new = {int(columns[column]): features for column, features in found.items()}
            for column, features in new.items():
                chosen[column] = list(dict.fromkeys(chosen.get(column, []) + features))
            columns = np.array(sorted(new), dtype=np.intp)
            for size in {len(chosen[column]) for column in new}:
                same = np.array([column for column in new if len(chosen[column]) == size], dtype=np.intp)
                features_CK = np.array([chosen[column] for column in same], dtype=np.intp)
                fit_CKN = self._fit_FN[features_CK]
                gram_CKK = fit_CKN @ fit_CKN.transpose(0, 2, 1) + np.float32(0.01) * np.eye(size, dtype=np.float32)
                weights_CK1 = np.linalg.solve(gram_CKK, fit_CKN @ start_CN[same][:, :, None])
                rest_CN[same] = start_CN[same] - (weights_CK1 * fit_CKN).sum(axis=1)
                more_CM[same] = (weights_CK1 * self._held_FM[features_CK]).sum(axis=1)
            if not new:
                return

    def _add_product(self, rest_CN: Floats32, more_CM: Floats32) -> None:
        """Add a product of two forms to columns whose Hessian exceeds noise; ``more_CM`` is updated."""
        num_rows, rank = self._whitened_NR.shape
        if rank == 0:
            return
        deviation_C = np.maximum(np.linalg.norm(rest_CN, axis=1) / np.sqrt(num_rows), 1e-12)
        target_CN = rest_CN / deviation_C[:, None]
        for column in self._promising(target_CN):
            target_N = target_CN[column].astype(np.float64)
            outer_N = ~self._inner_N
            slope, errors = self._agreement(
                _ProductForm(self._whitened_NR[outer_N], target_N[outer_N])(self._whitened_NR[self._inner_N])[None],
                target_N[self._inner_N][None],
            )
            if errors[0] < INNER_DEVIATIONS:
                continue
            form = _ProductForm(self._whitened_NR, target_N)
            shift = form(self._whitened_NR).mean()
            more_CM[column] += deviation_C[column] * min(1.0, slope[0]) * (form(self._held_MR) - shift)

    def _promising(self, target_CN: Floats32) -> NDArray[np.intp]:
        """Return the columns for which a product of forms is worth fitting.

        The Hessian must exceed noise, and its form of rank two, found without the inner rows, must agree there.
        """
        rank = self._whitened_NR.shape[1]
        threshold = 2.0 * np.sqrt(rank / self._num_groups) * (1.0 + MARGIN * rank ** (-2.0 / 3.0))
        values_C2, _ = _extremes(self._whitened_NR, target_CN)
        columns = np.flatnonzero(np.abs(values_C2).max(axis=1) > threshold)
        outer_N = ~self._inner_N
        values_C2, vectors_C2R = _extremes(self._whitened_NR[outer_N], target_CN[columns][:, outer_N])
        forms_C2I = (vectors_C2R @ self._whitened_NR[self._inner_N].T) ** 2
        _, errors_C = self._agreement(
            np.einsum("ck,cki->ci", values_C2, forms_C2I), target_CN[columns][:, self._inner_N]
        )
        return columns[errors_C > SCREENING_DEVIATIONS]

    def _agreement(self, forms_CI: NDArray[Any], target_CI: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the slopes [C] of targets on forms in the inner rows, and how many standard errors they are from 0."""
        centred_CI = (forms_CI - forms_CI.mean(axis=1, keepdims=True)).astype(np.float64)
        product_C, size_C = np.sum(centred_CI * target_CI, axis=1), np.sum(centred_CI**2, axis=1)
        error_C = np.sqrt(size_C * len(self._inner_N) / self._num_groups) * target_CI.std(axis=1)
        size_C, error_C = (np.where(array > 0.0, array, np.inf) for array in (size_C, error_C))
        return product_C / size_C, product_C / error_C


def _extremes(codes_NR: Floats32, target_CN: Floats32) -> tuple[Floats32, Floats32]:
    """Return two approximate extreme eigenvalues [C, 2], and eigenvectors [C, 2, R], of each column's Hessian.

    The Hessian is the mean of target w w' over rows w. Power iteration ends in the span of the eigenvectors with the
    largest absolute eigenvalues, which a product of two forms has of both signs; the Rayleigh-Ritz values of the last
    vector and its image tell them apart.
    """
    num_rows, rank = codes_NR.shape

    def images(vectors_CR: Floats32) -> Floats32:
        weighted_CN: Floats32 = vectors_CR @ codes_NR.T * target_CN
        found_CR: Floats32 = weighted_CN @ codes_NR
        return found_CR / np.float32(num_rows)

    start_R = np.random.default_rng(0).normal(size=(1, rank)).astype(np.float32)
    first_CR = np.repeat(start_R / np.linalg.norm(start_R), len(target_CN), axis=0)
    for _ in range(POWER_STEPS):
        first_CR = images(first_CR)
        first_CR /= np.maximum(np.linalg.norm(first_CR, axis=1), 1e-12)[:, None]
    image_CR = images(first_CR)
    second_CR = image_CR - np.sum(image_CR * first_CR, axis=1)[:, None] * first_CR
    second_CR /= np.maximum(np.linalg.norm(second_CR, axis=1), 1e-12)[:, None]
    basis_C2R = np.stack([first_CR, second_CR], axis=1)
    images_C2R = np.stack([image_CR, images(second_CR)], axis=1)
    values_C2, mixing_C22 = np.linalg.eigh(basis_C2R @ images_C2R.transpose(0, 2, 1))
    return values_C2, mixing_C22.transpose(0, 2, 1) @ basis_C2R


class _ProductForm:
    """A product of two linear forms of whitened codes, fitted to a target by alternating ridge regressions.

    It starts from the extreme eigenvectors of the target's principal Hessian and is refined as in low-rank matrix
    sensing (Jain, Netrapalli & Sanghavi 2013, STOC): each factor in turn is the ridge regression of the target on the
    codes times the other factor, with the penalty of a Gaussian prior of the factor's own size.
    """

    def __init__(self, whitened_NR: Floats32, target_N: Floats) -> None:
        """Args: whitened_NR: codes. target_N: target of mean 0, about."""
        codes_NR, target_N = whitened_NR, target_N.astype(np.float32)
        rank = codes_NR.shape[1]
        hessian_RR = (codes_NR * target_N[:, None]).T @ codes_NR / (2.0 * len(codes_NR))
        values_R, vectors_RR = np.linalg.eigh(hessian_RR)
        # lowest and highest eigenvalue l, h: h u u' - |l| v v' is the product of two forms
        high = np.sqrt(max(values_R[-1], 0.0)) * vectors_RR[:, -1]
        low = np.sqrt(max(-values_R[0], 0.0)) * vectors_RR[:, 0]
        one_sided = min(values_R[-1], -values_R[0]) < 0.5 * max(values_R[-1], -values_R[0])
        if one_sided:
            high, low = (high, 0.0 * low) if values_R[-1] > -values_R[0] else (0.0 * high, low)
        self._first_R, self._second_R = high + low, high - low
        for _ in range(ALTERNATIONS):
            for swap in (False, True):
                fixed_R, free_R = (self._first_R, self._second_R) if swap else (self._second_R, self._first_R)
                design_NR = codes_NR * (codes_NR @ fixed_R)[:, None]
                design_NR -= design_NR.mean(axis=0)
                error = np.mean(np.square(target_N - target_N.mean() - design_NR @ free_R))
                penalty = error * rank / max(float(free_R @ free_R), 1e-12)
                gram_RR = design_NR.T @ design_NR
                gram_RR[np.diag_indices(rank)] += penalty
                solved_R = np.linalg.solve(gram_RR, design_NR.T @ target_N)
                self._first_R, self._second_R = (fixed_R, solved_R) if swap else (solved_R, fixed_R)

    def __call__(self, whitened_MR: Floats32) -> Floats:
        """Return the values of the form [M]."""
        values_M: Floats = ((whitened_MR @ self._first_R) * (whitened_MR @ self._second_R)).astype(np.float64)
        return values_M


def _signed(left_NR: Floats) -> Floats:
    """Turn each singular vector so that its skewness is positive: a decomposition leaves the sign open."""
    return left_NR * np.where(np.sum(left_NR**3, axis=0) < 0.0, -1.0, 1.0)


def _cosines(codes_NP: Floats, held_MP: Floats) -> Floats32:
    """Return cosines of pi, 2 pi, ... times the rank in the fitted rows [`FREQUENCIES` P, M], ranks from 0 to 1."""
    num_rows = len(codes_NP)
    ranks_PM = np.empty(held_MP.T.shape, dtype=np.float32)
    for dimension, (column, held) in enumerate(zip(np.sort(codes_NP, axis=0).T, held_MP.T, strict=True)):
        # ties get the middle of their ranks
        below = np.searchsorted(column, held, "left") + np.searchsorted(column, held, "right")
        ranks_PM[dimension] = below / (2.0 * num_rows)
    return np.concatenate([np.cos(np.float32(np.pi * k) * ranks_PM) for k in range(1, FREQUENCIES + 1)])


def _normalised(fit_FN: Floats32, held_FM: Floats32) -> tuple[Floats32, Floats32]:
    """Centre features and scale them to unit length in the fitted rows; leave constant ones out."""
    mean_F1 = fit_FN.mean(axis=1, keepdims=True)
    fit_FN = fit_FN - mean_F1
    length_F1 = np.linalg.norm(fit_FN, axis=1, keepdims=True)
    varies = length_F1[:, 0] > 1e-3 * np.sqrt(fit_FN.shape[1])
    return fit_FN[varies] / length_F1[varies], (held_FM[varies] - mean_F1[varies]) / length_F1[varies]


def _largest(correlations_FC: NDArray[Any], level: float, most: int) -> dict[int, list[int]]:
    """Return {column: its features with a correlation above a level, strongest first, at most ``most``}."""
    features, columns = np.nonzero(np.abs(correlations_FC) > level)
    found: dict[int, list[int]] = {}
    strongest_first = np.argsort(-np.abs(correlations_FC[features, columns]), kind="stable")
    for column, feature in zip(columns[strongest_first].tolist(), features[strongest_first].tolist(), strict=True):
        if len(chosen := found.setdefault(column, [])) < most:
            chosen.append(feature)
    return found
