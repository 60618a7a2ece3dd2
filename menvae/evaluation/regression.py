"""How well targets are predicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def r2(true: Floats, predicted: Floats) -> float | None:
    """Coefficient of determination 1 - SS_res / SS_tot over a whole split.

    Args:
        true: [N], without missing values.
        predicted: [N].

    Returns:
        R2 (at most 1, negative when worse than the mean), or None for fewer than 2 values or a constant.

    >>> r2(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 2.0]))
    0.5
    """
    if len(true) < 2:
        return None
    total = float(np.square(true - true.mean()).sum())
    if total <= 1e-12 * max(1.0, float(np.square(true).sum())):
        return None
    return 1.0 - float(np.square(true - predicted).sum()) / total


def semantic_metrics(
    supervision: Mapping[str, Sequence[str]],
    targets: Mapping[str, Floats],
    observed: Mapping[str, NDArray[np.bool_]],
    predictions: Mapping[str, Floats],
) -> dict[str, float | None]:
    """Return ``sem/<feature>_r2`` and ``sem/<partition>_r2``, the unweighted mean over the features that have one.

    Args:
        supervision: partition -> names of its targets.
        targets: partition -> z-scored targets [N, F].
        observed: partition -> which were observed [N, F].
        predictions: partition -> predictions [N, F]; a partition without any is left out.
    """
    metrics: dict[str, float | None] = {}
    for partition, names in supervision.items():
        if partition not in predictions:
            continue
        values = []
        for column, name in enumerate(names):
            rows = observed[partition][:, column]
            value = r2(targets[partition][rows, column], predictions[partition][rows, column])
            metrics[f"sem/{name}_r2"] = value
            if value is not None:
                values.append(value)
        metrics[f"sem/{partition}_r2"] = float(np.mean(values)) if values else None
    return metrics


def leak_matrix(
    train: Mapping[str, Floats],
    val: Mapping[str, Floats],
    train_targets: Mapping[str, Floats],
    val_targets: Mapping[str, Floats],
) -> Floats:
    """R2 with which each partition alone predicts each target, by ridge regression fitted on training subjects.

    Args:
        train: partition -> posterior means of the training subjects [N, P].
        val: the same of the validation subjects [M, P].
        train_targets: feature -> z-scored targets [N], NaN where not observed.
        val_targets: the same of the validation subjects [M].

    Returns:
        [partitions, features]; NaN where there is too little to fit or to score.
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
