"""Bias-corrected distance correlation between blocks of variables.

A U-centred distance matrix has a zero diagonal and, for i != j, the entry
a_ij - a_i. / (n-2) - a_.j / (n-2) + a_.. / ((n-1)(n-2)) (Szekely & Rizzo 2014, definition 2). The matrices are never
centred explicitly (see `menvae.statistics.pairwise`): the inner product of two of them, divided by n (n-3), is

    (sum_ij a_ij b_ij - 2/(n-2) sum_i a_i. b_i. + a_.. b_.. / ((n-1)(n-2))) / (n (n-3)).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from menvae.statistics.pairwise import MIN_ROWS, Centring, bordered_products, centred_products, distances, normalised

__all__ = ["MIN_ROWS", "bordered_u_distance_correlations_sqr", "distances", "partial_correlations", "signed_root"]
__all__ += ["u_distance_correlation_sqr", "u_distance_correlations_sqr", "u_products"]


def u_products(distance_matrices: Sequence[Tensor]) -> Tensor:
    """Inner products of U-centred distance matrices, i.e. unbiased squared distance covariances.

    Args:
        distance_matrices: K matrices [N, N] with N > 3.

    Returns:
        Symmetric [K, K], double.

    Raises:
        ValueError: fewer than 4 rows.
    """
    stacked = torch.stack(list(distance_matrices))
    return centred_products(stacked, Centring.unbiased(stacked.shape[-1]))[0]


def u_distance_correlations_sqr(blocks: Sequence[Tensor]) -> Tensor:
    """Squared bias-corrected distance correlations between blocks of columns.

    The estimate may be negative, because it is unbiased around 0 for independent blocks. It is not clamped: clamping
    would bias it and remove the gradient of half of all independent draws.

    Args:
        blocks: K tensors [N, F_k] of the same N > 3 subjects.

    Returns:
        Symmetric [K, K] in double precision, 1 on the diagonal; 0 where the distance variance of a block is 0, that is
        if it is constant, constant except for one subject, or has equal distances.

    Raises:
        ValueError: fewer than 4 rows.
    """
    with torch.autocast(blocks[0].device.type, enabled=False):
        matrices = torch.stack([distances(block) for block in blocks])
        return normalised(*centred_products(matrices, Centring.unbiased(len(blocks[0]))))


def bordered_u_distance_correlations_sqr(border_KBN: Tensor, inner_KNN: Tensor | None, slots_B: Tensor) -> Tensor:
    """`u_distance_correlations_sqr` from known distances and those of a batch; only the batch has a gradient.

    Args:
        border_KBN: distances from the batch's rows to all rows (see `menvae.statistics.pairwise.distances_of`).
        inner_KNN: distances between all rows; those of the batch's rows are ignored. None if there are no other rows.
        slots_B: indices of the batch's rows; 0 to N - 1 in order without ``inner_KNN``.

    Raises:
        ValueError: fewer than 4 rows.
    """
    with torch.autocast(border_KBN.device.type, enabled=False):
        centring = Centring.unbiased(border_KBN.shape[-1])
        return normalised(*bordered_products(border_KBN, inner_KNN, slots_B, centring))


def u_distance_correlation_sqr(x: Tensor, y: Tensor) -> Tensor:
    """Squared bias-corrected distance correlation of x [N, F] and y [N, G], a scalar in double precision.

    >>> x = torch.arange(5.0).unsqueeze(1)
    >>> round(u_distance_correlation_sqr(x, 3 * x + 1).item(), 9)
    1.0
    """
    return u_distance_correlations_sqr([x, y])[0, 1]


def partial_correlations(correlations_KK: Tensor) -> Tensor:
    """Partial distance correlations between all blocks except the last, given the last.

    R_xy;z = (R_xy - R_xz R_yz) / sqrt((1 - R_xz^2)(1 - R_yz^2)) with the bias-corrected squared distance correlations R
    (Szekely & Rizzo 2014, section 3, computing formula of the sample).

    Args:
        correlations_KK: `u_distance_correlations_sqr` of K blocks, of distances or of other dissimilarities (ibid.,
            section 4).

    Returns:
        [K - 1, K - 1]; 0 where the last block determines a block (their R is 1).

    >>> partial_correlations(torch.tensor([[1.0, 0.6, 0.6], [0.6, 1.0, 0.6], [0.6, 0.6, 1.0]]))
    tensor([[1.0000, 0.3750],
            [0.3750, 1.0000]])
    """
    given = correlations_KK[:-1, -1]
    left = 1.0 - given.square()
    scale_sqr = torch.outer(left, left)
    defined = torch.outer(left > 1e-12, left > 1e-12)
    partial = correlations_KK[:-1, :-1] - torch.outer(given, given)
    return torch.where(defined, partial / torch.where(defined, scale_sqr, 1.0).sqrt(), 0.0)


def signed_root(squared: Tensor) -> Tensor:
    """sign(x) sqrt|x|: maps a squared correlation, which may be negative, to the scale of a correlation.

    >>> signed_root(torch.tensor([0.25, -0.04]))
    tensor([ 0.5000, -0.2000])
    """
    return torch.sign(squared) * squared.abs().sqrt()
