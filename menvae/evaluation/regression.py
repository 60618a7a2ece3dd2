"""Leak matrix: how well each partition predicts each target."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from menvae.metrics import Floats
from menvae.metrics.r2 import r2


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
    from sklearn.linear_model import RidgeCV

    matrix = np.full((len(train), len(train_targets)), np.nan)
    for column, name in enumerate(train_targets):
        seen, scored = np.isfinite(train_targets[name]), np.isfinite(val_targets[name])
        if seen.sum() < 4:
            continue
        for row, partition in enumerate(train):
            model = RidgeCV(alphas=np.logspace(-2, 4, 13)).fit(train[partition][seen], train_targets[name][seen])
            score = r2(val_targets[name][scored], model.predict(val[partition][scored])) if scored.any() else None
            matrix[row, column] = np.nan if score is None else score
    return matrix
