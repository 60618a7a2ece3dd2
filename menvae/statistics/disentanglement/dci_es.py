"""Explicitness and size, the two scores that DCI-ES adds to DCI."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from menvae.statistics.disentanglement.occupancies import Occupancies
from menvae.statistics.disentanglement.readings import Readings


class DciEs(NamedTuple):
    """Two scores from 0 to 1.

    Attributes:
        explicitness: share of what a quadratic probe reads that a linear one reads too.
        size: number of factors divided by the number of code directions that they occupy, at most 1.
    """

    explicitness: float
    size: float


def dci_es(read: Readings, occupied: Occupancies) -> DciEs:
    """Explicitness and size of the code.

    Explicitness of a factor group is R2_linear / R2_quadratic, from all code groups, 0 if nothing is read; the score is
    the mean over groups. Size is min(1, F / sum_s T_s) with the occupied directions T_s, 0 if there are none.

    Deviations: the area under the curve of loss over capacity has two capacities; size counts directions that depend on
    factors instead of all dimensions, so that dead and noise dimensions do not count.

    Source: Eastwood et al. 2023.

    >>> read = Readings(np.eye(2), np.array([1.0, 0.4]), np.array([1.0, 0.8]), np.arange(2))
    >>> dci_es(read, Occupancies(np.eye(2), np.array([2.0, 2.0]), 100, 2))
    DciEs(explicitness=0.75, size=0.5)
    """
    linear, quadratic = read.per_group(read.joint), read.per_group(read.quadratic)
    explicit = np.divide(linear, quadratic, out=np.zeros_like(linear), where=quadratic > 0)
    directions = float(occupied.by_all.sum())
    return DciEs(float(explicit.mean()), min(1.0, occupied.num_factors / directions) if directions > 0 else 0.0)
