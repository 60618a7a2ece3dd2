"""How independent the partitions of a split are."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray

from menvae.latent import LatentLayout
from menvae.statistics.distance_correlation import MIN_ROWS, signed_root, u_distance_correlations_sqr

MOST_ROWS = 4096
"""Of larger splits evenly spaced rows are taken: the memory of a distance correlation grows with their square."""


def independence_metrics(means: NDArray[np.float64], layout: LatentLayout) -> dict[str, float | None]:
    """Return ``indep/dcor_<a>_<b>`` and ``indep/corr_<a>_<b>`` for every pair of partitions.

    dcor is sign(x) sqrt|x| of the bias-corrected squared distance correlation; corr is the mean absolute Pearson
    correlation over all pairs of one dimension of a and one of b, which is above 0 by chance: about sqrt(2 / (pi N)).

    Args:
        means: posterior means of a whole split [N, Z].
        layout: the partitions.

    Returns:
        Values, or None where N < 4 subjects cannot give one.
    """
    pairs = list(combinations(layout, 2))
    if not pairs:
        return {}
    means = means[:: -(-len(means) // MOST_ROWS) or 1]
    if len(means) < MIN_ROWS:
        return {f"indep/{kind}_{a}_{b}": None for kind in ("dcor", "corr") for a, b in pairs}
    blocks = layout.split(torch.from_numpy(means))
    names = list(layout)
    dcor = signed_root(u_distance_correlations_sqr([blocks[name] for name in names])).numpy()
    centred = means - means.mean(axis=0)
    norms = np.linalg.norm(centred, axis=0)
    scaled = np.divide(centred, norms, out=np.zeros_like(centred), where=norms > 0)
    correlation = np.abs(scaled.T @ scaled)
    metrics: dict[str, float | None] = {}
    for a, b in pairs:
        metrics[f"indep/dcor_{a}_{b}"] = float(dcor[names.index(a), names.index(b)])
        metrics[f"indep/corr_{a}_{b}"] = float(correlation[slice(*layout.bounds(a)), slice(*layout.bounds(b))].mean())
    return metrics


def max_dcor(metrics: dict[str, float | None]) -> float | None:
    """Return the largest |dcor| over pairs, None if any is missing or there is only one partition."""
    values = [value for name, value in metrics.items() if name.startswith("indep/dcor_")]
    if not values or any(value is None for value in values):
        return None
    return max(abs(value) for value in values if value is not None)
