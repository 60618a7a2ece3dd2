"""Score of FactorVAE."""

from __future__ import annotations

import numpy as np

from menvae.statistics.disentanglement.occupancies import Occupancies


def factor_vae_score(occupied: Occupancies) -> float:
    """Accuracy at which the code group that varies least names the factor group that is fixed; 1/G (chance) to 1.

    Fix factor group g: the factor-driven part of z_s keeps the share 1 - A_sg of its variance. Group g votes for the
    code group with the smallest one, and shares its vote between ties. Each code group is then assigned to the factor
    group that votes most for it: accuracy = sum_s max_g votes_sg / G.

    Deviations: batches are infinitely large, so nothing is drawn; code groups that depend on no factor are left out, as
    the paper leaves out collapsed dimensions.

    Source: Kim & Mnih 2018.

    >>> factor_vae_score(Occupancies(np.array([[1.0, 0.2], [0.3, 0.9]]), np.ones(2), 10_000, 2))
    1.0
    >>> factor_vae_score(Occupancies(np.array([[0.5, 0.5], [0.5, 0.5]]), np.ones(2), 10_000, 2))
    0.5
    """
    shares = occupied.shares
    num_groups = shares.shape[1]
    smallest = shares.max(axis=0)
    votes = ((shares >= smallest - occupied.tie) & (shares > 0.0)).astype(np.float64)
    votes /= np.maximum(votes.sum(axis=0), 1.0)
    return max(float(votes.max(axis=1).sum()), 1.0) / float(num_groups)
