"""How well classes are predicted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def class_metrics(labels: Floats, predicted: Floats) -> dict[str, float | None]:
    """Return ``sem/class_accuracy`` and ``sem/class_balanced_accuracy`` of the rows whose label is known.

    Balanced accuracy is the mean over the classes that occur of the share of their rows that are found (Brodersen et
    al. 2010): of many rare classes the plain one says little.

    Args:
        labels: class indices [N]; -1 where not known.
        predicted: class indices [N].

    Returns:
        Shares, or None where no label is known.

    >>> class_metrics(np.array([0, 0, 0, 1, -1]), np.array([0, 0, 1, 1, 0]))
    {'sem/class_accuracy': 0.75, 'sem/class_balanced_accuracy': 0.8333333333333333}
    """
    known = labels >= 0
    if not known.any():
        return {"sem/class_accuracy": None, "sem/class_balanced_accuracy": None}
    right = (labels == predicted)[known].astype(np.float64)
    _, classes, counts = np.unique(labels[known], return_inverse=True, return_counts=True)
    recalls = np.bincount(classes, weights=right) / counts
    return {"sem/class_accuracy": float(right.mean()), "sem/class_balanced_accuracy": float(recalls.mean())}
