"""Leak matrix: how well each partition predicts each target."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from menvae.metrics import Floats
from menvae.metrics.r2 import r2

_PENALTIES = np.logspace(-2, 4, 13)


def leak_matrix(
    train: Mapping[str, Floats],
    val: Mapping[str, Floats],
    train_targets: Mapping[str, Floats],
    val_targets: Mapping[str, Floats],
) -> Floats:
    """R2 of ridge regressions from each partition to each target, fitted on training and scored on validation subjects.

    Args:
        train: partition -> posterior means of the training subjects [N, P].
        val: partition -> posterior means of the validation subjects [M, P].
        train_targets: target -> z-scores of the training subjects [N], NaN where not observed.
        val_targets: target -> z-scores of the validation subjects [M], NaN where not observed.

    Returns:
        [partitions, targets]; NaN with fewer than 4 observed training subjects or an undefined R2.
    """
    matrix = np.full((len(train), len(train_targets)), np.nan)
    for column, name in enumerate(train_targets):
        seen, scored = np.isfinite(train_targets[name]), np.isfinite(val_targets[name])
        if seen.sum() < 4:
            continue
        for row, partition in enumerate(train):
            weights, intercept = _ridge(train[partition][seen], train_targets[name][seen])
            predicted = val[partition][scored].astype(np.float64) @ weights + intercept
            score = r2(val_targets[name][scored], predicted) if scored.any() else None
            matrix[row, column] = np.nan if score is None else score
    return matrix


def _ridge(features: Floats, target: Floats) -> tuple[Floats, np.float64]:
    """Return weights [P] and intercept of the ridge regression whose penalty has the least leave-one-out error.

    The errors are in closed form, the residuals divided by one minus their leverages, as in Hastie, Tibshirani and
    Friedman, The Elements of Statistical Learning, section 7.10. ``sklearn.linear_model.RidgeCV`` returns the same,
    but importing it would add about a second to every run.

    Args:
        features: [N, P].
        target: [N], finite.
    """
    features, target = features.astype(np.float64), target.astype(np.float64)
    feature_means, target_mean = features.mean(0), target.mean()
    left, singular, right = np.linalg.svd(features - feature_means, full_matrices=False)
    projected = left.T @ (target - target_mean)
    errors, weights = [], []
    for penalty in _PENALTIES:
        shrinkage = singular**2 / (singular**2 + penalty)
        residuals = target - target_mean - left @ (shrinkage * projected)
        leverages = 1.0 / len(target) + left**2 @ shrinkage  # the first is that of the intercept
        errors.append(np.mean((residuals / (1.0 - leverages)) ** 2))
        weights.append(right.T @ (singular / (singular**2 + penalty) * projected))
    best = weights[int(np.argmin(errors))]
    return best, target_mean - feature_means @ best
