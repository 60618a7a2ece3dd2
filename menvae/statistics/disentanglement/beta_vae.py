"""Score of beta-VAE."""

from __future__ import annotations

import numpy as np

from menvae.statistics.disentanglement.occupancies import Occupancies


def beta_vae_score(occupied: Occupancies) -> float:
    """Accuracy at which a linear classifier names the factor group that two subjects share; 1/G (chance) to 1.

    The classifier sees the mean squared difference of each code group between subjects with equal factors of group g,
    relative to any two subjects: 1 - A_sg for the factor-driven part. With infinitely many pairs this is one point per
    factor group, and a linear classifier tells all points apart that differ: accuracy = number of different points / G.
    Points count as equal if they agree within the sampling error in every code group.

    The score is lenient: it asks whether factor groups affect code groups differently, not whether one code group
    belongs to one factor group. Deviation: squared instead of absolute differences.

    Source: Higgins et al. 2017.

    >>> beta_vae_score(Occupancies(np.array([[0.7, 0.3], [0.3, 0.7]]), np.ones(2), 10_000, 2))
    1.0
    >>> beta_vae_score(Occupancies(np.array([[0.5, 0.5], [0.5, 0.5]]), np.ones(2), 10_000, 2))
    0.5
    """
    points = occupied.shares.T
    equal = np.abs(points[:, None] - points[None]).max(axis=2) <= occupied.tie
    for _ in points:  # who equals an equal is equal
        equal = (equal @ equal) > 0
    return float(len(np.unique(equal, axis=0)) / len(points))
