"""Bias-corrected distance correlation between blocks of variables.

A U-centred distance matrix has a zero diagonal and, for i != j, the entry
a_ij - a_i. / (n-2) - a_.j / (n-2) + a_.. / ((n-1)(n-2)) (Szekely & Rizzo 2014, definition 2). The matrices are never
centred here: the inner product of two of them, over n (n-3), is

    (sum_ij a_ij b_ij - 2/(n-2) sum_i a_i. b_i. + a_.. b_.. / ((n-1)(n-2))) / (n (n-3)).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

MIN_ROWS = 4
"""The estimator needs n > 3."""

ROUNDING = 1e-12
"""A distance variance below this share of the mean squared distance is 0 but for rounding."""


def distances(rows_NF: Tensor) -> Tensor:
    """Euclidean distances [N, N] in double precision; the gradient at distance 0 is 0, the diagonal exactly 0."""
    rows = rows_NF.double()
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")


def u_products(distance_matrices: Sequence[Tensor]) -> Tensor:
    """Inner products of U-centred distance matrices, that is unbiased squared distance covariances.

    Args:
        distance_matrices: K matrices [N, N] with N > 3.

    Returns:
        Symmetric [K, K], double.

    Raises:
        ValueError: fewer than 4 rows.
    """
    stacked = torch.stack(list(distance_matrices))
    n = stacked.shape[-1]
    if n < MIN_ROWS:
        raise ValueError(f"distance correlation of {n} rows is undefined; the U-centred estimator needs more than 3")
    row_sums = stacked.sum(dim=-1)
    totals = row_sums.sum(dim=-1)
    flat = stacked.flatten(1)
    products = flat @ flat.T - 2.0 / (n - 2) * row_sums @ row_sums.T + torch.outer(totals, totals) / ((n - 1) * (n - 2))
    return products / (n * (n - 3))


def u_distance_correlations_sqr(blocks: Sequence[Tensor]) -> Tensor:
    """Squared bias-corrected distance correlations between blocks of columns.

    The estimate may be negative: it is unbiased around 0 for independent blocks, and is not clamped, because clamping
    would bias it and remove the gradient of half of all independent draws.

    Args:
        blocks: K tensors [N, F_k] of the same N > 3 subjects.

    Returns:
        Symmetric [K, K] in double precision, 1 on the diagonal; 0 where the distance variance of a block is 0: it is
        constant, or constant but for one subject, or all its distances are equal.

    Raises:
        ValueError: fewer than 4 rows.
    """
    with torch.autocast(blocks[0].device.type, enabled=False):
        matrices = torch.stack([distances(block) for block in blocks])
        products = u_products(list(matrices))
        variances = torch.diagonal(products)
        nonzero = variances > ROUNDING * matrices.detach().square().mean(dim=(1, 2))
        varies = torch.outer(nonzero, nonzero)
        scale_sqr = torch.outer(variances, variances)
        return torch.where(varies, products / torch.where(varies, scale_sqr, 1.0).sqrt(), 0.0)


def u_distance_correlation_sqr(x: Tensor, y: Tensor) -> Tensor:
    """Squared bias-corrected distance correlation of x [N, F] and y [N, G], a double scalar.

    >>> x = torch.arange(5.0).unsqueeze(1)
    >>> round(u_distance_correlation_sqr(x, 3 * x + 1).item(), 9)
    1.0
    """
    return u_distance_correlations_sqr([x, y])[0, 1]


def signed_root(squared: Tensor) -> Tensor:
    """sign(x) sqrt|x|: brings a squared correlation, which may be negative, to the scale of a correlation.

    >>> signed_root(torch.tensor([0.25, -0.04]))
    tensor([ 0.5000, -0.2000])
    """
    return torch.sign(squared) * squared.abs().sqrt()
