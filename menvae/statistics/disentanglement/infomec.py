"""Information modularity, explicitness and compactness (InfoMEC)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from menvae.statistics.disentanglement.readings import Readings, normalised_information
from menvae.statistics.disentanglement.ridge import Floats


class InfoMec(NamedTuple):
    """Three scores from 0 to 1.

    Attributes:
        modularity: does each code group have information about one factor group only?
        explicitness: how much information about the factors does a linear probe of all code groups have?
        compactness: does one code group have all information about a factor group?
    """

    modularity: float
    explicitness: float
    compactness: float


def infomec(read: Readings) -> InfoMec:
    """InfoMEC from the normalised information N [S, G].

    With q(x) = max(0, (max(x) / sum(x) - 1/G) / (1 - 1/G)):
    modularity = sum_s w_s q(N_s.), w_s = sum_g N_sg / sum_sg N_sg; compactness = mean_g q(N_.g), 0 if nothing is known;
    explicitness = mean normalised information of the linear probe of all code groups.

    Deviations: weights w_s instead of pruned latents; 1/G for compactness too, so that dead code groups do not count;
    the semipartial R2 for dependent factors.

    Source: Hsu et al. 2023.

    >>> scores = infomec(Readings(np.eye(2), np.array([1.0, 0.5]), np.ones(2), np.arange(2)))
    >>> scores.modularity, round(scores.explicitness, 3), scores.compactness
    (1.0, 0.574, 1.0)
    """
    known = read.normalised_information
    num_groups = known.shape[1]
    of_codes = known.sum(axis=1)
    total = of_codes.sum()
    return InfoMec(
        float((of_codes * _dominance(known, num_groups)).sum() / total) if total > 0 else 0.0,
        float(read.per_group(normalised_information(read.joint)).mean()),
        float(_dominance(known.T, num_groups).mean()),
    )


def _dominance(rows: Floats, num_groups: int) -> Floats:
    """Share of the largest entry of each row, scaled so that 1 / num_groups gives 0; 0 for rows of zeros."""
    sums = rows.sum(axis=1)
    shares = np.divide(rows.max(axis=1), sums, out=np.zeros_like(sums), where=sums > 0)
    dominance = np.clip((shares - 1.0 / num_groups) / (1.0 - 1.0 / num_groups), 0.0, 1.0)
    return np.asarray(dominance, dtype=np.float64)
