"""Coverage of one distribution by samples of another (Naeem et al. 2020, Reliable Fidelity and Diversity Metrics)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def neighbourhoods(real_MD: Floats, other_ND: Floats, k: int) -> NDArray[np.bool_]:
    """Return which of other samples lie in the neighbourhood of each real sample [M, N].

    The neighbourhood of a real sample is the closed ball that reaches to its k-th nearest real sample. The coverage of
    the real distribution is the share of neighbourhoods that contain any of the other samples.

    Args:
        real_MD: samples of the distribution to be covered.
        other_ND: samples that may cover it.
        k: in 1 ... M - 1.

    Raises:
        ValueError: k is out of range.

    >>> real, other = np.array([[0.0], [1.0], [3.0], [9.0]]), np.array([[0.5], [3.5]])
    >>> neighbourhoods(real, other, 1).any(axis=1).mean()
    np.float64(1.0)
    >>> neighbourhoods(real, other[:1], 1).any(axis=1).mean()
    np.float64(0.5)
    """
    if not 1 <= k < len(real_MD):
        raise ValueError(f"k={k} is not allowed; with {len(real_MD)} real samples it must be 1 to {len(real_MD) - 1}")
    from scipy.spatial.distance import cdist, pdist, squareform

    radii = np.sort(squareform(pdist(real_MD)), axis=1)[:, k]  # the nearest one is the sample itself
    near: NDArray[np.bool_] = cdist(real_MD, other_ND) <= radii[:, None]
    return near


def expected_coverage(num_real: int, num_other: int, k: int) -> float:
    """Return the expected coverage of samples of the same continuous distribution, whatever it is.

    The k-th nearest of M - 1 real samples must not be nearer than all N others: with all M + N - 1 in random order, the
    first k are real with probability (M - 1) ... (M - k) / ((M + N - 1) ... (M + N - k)).

    Args:
        num_real: M.
        num_other: N.
        k: number of the neighbour that bounds a neighbourhood.

    >>> round(expected_coverage(1000, 1000, 5), 3)
    0.969
    """
    places = np.arange(1, k + 1)
    return float(1.0 - np.prod((num_real - places) / (num_real + num_other - places)))
