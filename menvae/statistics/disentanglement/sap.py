"""Separated attribute predictability (SAP)."""

from __future__ import annotations

import numpy as np

from menvae.statistics.disentanglement.readings import Readings
from menvae.statistics.disentanglement.ridge import Floats


def sap(read: Readings) -> float:
    """SAP: mean over factor groups of the gap in semipartial R2 between the two code groups that say most; 0 to 1.

    Deviation: code groups instead of dimensions, and the semipartial R2 for dependent factors.

    Source: Kumar et al. 2018.

    >>> sap(Readings(np.array([[0.9, 0.0], [0.2, 0.5]]), np.ones(2), np.ones(2), np.arange(2)))
    0.6
    """
    return mean_gap(read.importance)


def mean_gap(values: Floats) -> float:
    """Return the mean over columns [S, G] of the largest value less the second largest (0 for a single row)."""
    ordered = np.sort(np.vstack([np.zeros((1, values.shape[1])), values]), axis=0)
    return float((ordered[-1] - ordered[-2]).mean())
