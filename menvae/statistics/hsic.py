"""Hilbert-Schmidt independence criterion with Gaussian kernels k(x, y) = exp(-|x - y|^2 / (2 bandwidth^2)).

Like distance covariance, it is 0 only for independent blocks of variables, but it has a scale of distances, the
bandwidth. Sources: Gretton, Bousquet, Smola & Schoelkopf 2005 (biased), Song, Smola, Gretton, Bedo & Borgwardt 2012,
eq. 5 (unbiased: U-centred products of kernels whose diagonal is set to 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from menvae.statistics.pairwise import Centring, bordered_products, centred_products, distances, normalised

Estimator = Literal["unbiased", "biased"]


def median_distances(distances_KMN: Tensor) -> Tensor:
    """Median distance [K] from M rows to the others, without gradient: the usual bandwidth (Gretton et al. 2005).

    For an even number of distances it is the lower of the middle two. If it is 0 (half of the distances are 0), the
    mean distance replaces it, and for a constant block 1.

    Args:
        distances_KMN: distances from M rows to N > 1 rows that include these M.

    >>> median_distances(distances(torch.tensor([[0.0], [1.0], [3.0]]))[None])
    tensor([2.], dtype=torch.float64)
    """
    num_rows, num_others = distances_KMN.shape[1], distances_KMN.shape[2] - 1
    flat = distances_KMN.detach().flatten(1)
    # the M self-distances are 0 and come first
    median = flat.kthvalue(num_rows + (num_rows * num_others + 1) // 2, dim=1).values
    mean = flat.sum(dim=1) / (num_rows * num_others)
    return torch.where(median > 0.0, median, torch.where(mean > 0.0, mean, 1.0))


def gaussian_kernels(distances_KMN: Tensor, bandwidths_K: Tensor) -> Tensor:
    """Kernel values [K, M, N], in (0, 1]."""
    return torch.exp(-0.5 * (distances_KMN / bandwidths_K[:, None, None]).square())


def hsic(blocks: Sequence[Tensor], bandwidth: float | None = None, estimator: Estimator = "unbiased") -> Tensor:
    """HSIC between blocks of columns.

    Args:
        blocks: K tensors [N, F_k] of the same subjects; N > 3, for ``biased`` N > 1.
        bandwidth: bandwidth of the kernels; None: the median distance of each block.
        estimator: ``unbiased`` may be negative; ``biased`` is (N - 1)^-2 trace(K H L H).

    Returns:
        Symmetric [K, K] in double precision.

    Raises:
        ValueError: too few rows.

    >>> x = torch.tensor([[0.0], [1.0]])
    >>> k = torch.exp(torch.tensor(-0.5)).item()
    >>> abs(hsic([x, x], 1.0, "biased")[0, 1].item() - (1 - k) ** 2) < 1e-7
    True
    """
    with torch.autocast(blocks[0].device.type, enabled=False):
        return _products(blocks, bandwidth, estimator)[0]


def normalised_hsic(
    blocks: Sequence[Tensor], bandwidth: float | None = None, estimator: Estimator = "unbiased"
) -> Tensor:
    """HSIC(x, y) / sqrt(HSIC(x, x) HSIC(y, y)) [K, K], i.e. kernel alignment; same arguments as `hsic`.

    It is 1 on the diagonal, and 0 for a constant block (Cortes, Mohri & Rostamizadeh 2012, definition 4).
    """
    with torch.autocast(blocks[0].device.type, enabled=False):
        return normalised(*_products(blocks, bandwidth, estimator))


def bordered_hsic(
    border_KBN: Tensor,
    inner_KNN: Tensor | None,
    slots_B: Tensor,
    bandwidths_K: Tensor,
    *,
    estimator: Estimator = "unbiased",
    normalise: bool = True,
) -> Tensor:
    """`hsic` or `normalised_hsic` from known distances and those of a batch; only the batch has a gradient.

    Args:
        border_KBN: distances from the batch's rows to all rows (see `menvae.statistics.pairwise.distances_of`).
        inner_KNN: distances between all rows; those of the batch's rows are ignored. None if there are no other rows.
        slots_B: indices of the batch's rows; 0 to N - 1 in order without ``inner_KNN``.
        bandwidths_K: bandwidths of the kernels.
        estimator: see `hsic`.
        normalise: return `normalised_hsic`.

    Raises:
        ValueError: too few rows.
    """
    with torch.autocast(border_KBN.device.type, enabled=False):
        border = gaussian_kernels(border_KBN, bandwidths_K)
        inner = None if inner_KNN is None else gaussian_kernels(inner_KNN, bandwidths_K)
        if estimator == "unbiased":
            own = torch.nn.functional.one_hot(slots_B, border.shape[-1]).bool()
            border = border.masked_fill(own, 0.0)
            inner = None if inner is None else _without_diagonal(inner)
        products, mean_squares = bordered_products(border, inner, slots_B, _centring(estimator, border.shape[-1]))
        return normalised(products, mean_squares) if normalise else products


def _products(blocks: Sequence[Tensor], bandwidth: float | None, estimator: Estimator) -> tuple[Tensor, Tensor]:
    found = torch.stack([distances(block) for block in blocks])
    bandwidths = median_distances(found) if bandwidth is None else found.new_full((len(blocks),), bandwidth)
    kernels = gaussian_kernels(found, bandwidths)
    kernels = _without_diagonal(kernels) if estimator == "unbiased" else kernels
    return centred_products(kernels, _centring(estimator, kernels.shape[-1]))


def _without_diagonal(matrices_KNN: Tensor) -> Tensor:
    own = torch.eye(matrices_KNN.shape[-1], dtype=torch.bool, device=matrices_KNN.device)
    return matrices_KNN.masked_fill(own, 0.0)


def _centring(estimator: Estimator, num_rows: int) -> Centring:
    return Centring.unbiased(num_rows) if estimator == "unbiased" else Centring.biased(num_rows)
