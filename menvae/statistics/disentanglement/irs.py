"""Interventional robustness score (IRS)."""

from __future__ import annotations

from menvae.statistics.disentanglement.occupancies import Occupancies


def irs(occupied: Occupancies) -> float:
    """IRS: how little code groups change with all other factors while their own factor group is fixed; 0 to 1.

    It is sum_s w_s max_g T_sg / T_s with the directions T_s that all factors determine, T_sg that group g determines,
    and w_s = T_s / sum_s T_s; 0 if the code depends on no factor. The remainder, 1 - T_sg / T_s, is the variance that
    remains in the factor-driven part of z_s once group g is fixed.

    Deviations: a mean square instead of the largest deviation over interventions, which no finite cohort shows; other
    factors follow their distribution given the fixed ones, so that an ideal code of dependent factors has 1.

    Source: Suter et al. 2019.

    >>> import numpy as np
    >>> irs(Occupancies(np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([1.0, 1.0]), 100, 2))
    0.75
    """
    total = float(occupied.by_all.sum())
    return float((occupied.by_all * occupied.shares.max(axis=1)).sum()) / total if total > 0 else 0.0
