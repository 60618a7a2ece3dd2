"""Mutual information gap (MIG)."""

from __future__ import annotations

from menvae.statistics.disentanglement.readings import Readings
from menvae.statistics.disentanglement.sap import mean_gap


def mig(read: Readings) -> float:
    """MIG: mean over factor groups of the gap in normalised information between the two best code groups; 0 to 1.

    Information is that of Gaussian variables (a lower bound for Gaussian factors and other codes), divided by the
    entropy of the factor at a finite resolution (see `normalised_information`).

    Deviations: code groups instead of dimensions, no bins, and the semipartial R2 for dependent factors.

    Source: Chen et al. 2018.

    >>> import numpy as np
    >>> round(mig(Readings(np.array([[1.0, 0.0], [0.5, 0.9]]), np.ones(2), np.ones(2), np.arange(2))), 3)
    0.666
    """
    return mean_gap(read.normalised_information)
