"""Inner products of centred matrices of pairs, such as distances or kernels, without ever centring one.

Centring takes row means and column means off a symmetric matrix and puts the total mean back. For matrices A and B with
row sums a_i, b_i and totals a, b, the inner product of their centred forms is

    scale (sum_ij A_ij B_ij - row_factor sum_i a_i b_i + total_factor a b),

where `Centring` holds the three factors. Its derivative by A_ij is scale times B_ij, centred; so what belongs to some
rows needs those rows of B and the row sums only.

Legend: K blocks of variables (matrices), N rows in all, B rows of the batch among them, Z columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from menvae.differentiation import first_order

__all__ = ["MIN_ROWS", "Centring", "bordered_products", "centred_products", "distances", "distances_of", "normalised"]

MIN_ROWS = 4
"""The U-centred estimators need n > 3."""

ROUNDING = 1e-12
"""A variance below this share of the mean squared entry is 0 but for rounding."""

Bounds = Sequence[tuple[int, int]]
"""(start, stop) of the columns of each block."""


@dataclass(frozen=True)
class Centring:
    """Factors of the inner product of centred matrices (see the module)."""

    scale: float
    row_factor: float
    total_factor: float

    @classmethod
    def unbiased(cls, n: int) -> Centring:
        """U-centring of matrices with a zero diagonal, averaged over n (n - 3) (Szekely & Rizzo 2014, definition 2).

        Raises:
            ValueError: fewer than 4 rows.
        """
        if n < MIN_ROWS:
            raise ValueError(f"a statistic of {n} rows is undefined; the U-centred estimator needs more than 3")
        return cls(1.0 / (n * (n - 3)), 2.0 / (n - 2), 1.0 / ((n - 1) * (n - 2)))

    @classmethod
    def biased(cls, n: int) -> Centring:
        """Double centring, over (n - 1)^2 (Gretton et al. 2005, definition 2).

        Raises:
            ValueError: fewer than 2 rows.
        """
        if n < 2:
            raise ValueError(f"a statistic of {n} rows is undefined; it needs 2 or more")
        return cls(1.0 / (n - 1) ** 2, 2.0 / n, 1.0 / n**2)


def distances(rows_NF: Tensor) -> Tensor:
    """Euclidean distances [N, N] in double precision; the gradient at distance 0 is 0, the diagonal exactly 0."""
    rows = rows_NF.double()
    return _between(rows, rows)


def distances_of(rows_BZ: Tensor, all_NZ: Tensor, bounds: Bounds) -> Tensor:
    """Distances [K, B, N] from some rows to all rows, one matrix a block of columns, in double precision.

    ``all_NZ`` may contain the same rows; it counts as constant, and the gradient at distance 0 is 0. A distance has the
    same bits whichever other rows are asked for with it, and in either direction.
    """
    found: Tensor = _DistancesOf.apply(rows_BZ.double(), all_NZ.detach().double(), tuple(bounds))  # type: ignore[no-untyped-call]
    return found


def centred_products(matrices_KNN: Tensor, centring: Centring) -> tuple[Tensor, Tensor]:
    """Return the inner products [K, K] of centred symmetric matrices, and their mean squared entries [K], detached."""
    products, row_sums = _raw_products(matrices_KNN)
    mean_squares = torch.diagonal(products.detach()) / matrices_KNN.shape[-1] ** 2
    return _centred(products, row_sums, centring), mean_squares


def bordered_products(
    border_KBN: Tensor, inner_KNN: Tensor | None, slots_B: Tensor, centring: Centring
) -> tuple[Tensor, Tensor]:
    """`centred_products` of matrices that are known but for the rows and columns of a batch.

    The gradient goes to the border alone. Its entry (i, j) is the derivative by what row i and row j have in common, so
    that the border must be a function of the batch's rows in which the other row of a pair counts as constant, as
    `distances_of` is; each of two rows of the batch then gets its own share.

    Args:
        border_KBN: the rows of the batch.
        inner_KNN: constant; what stands in rows and columns of the batch is not used. None where B = N.
        slots_B: which of the N rows are the batch's; 0 to N - 1 in order where there is no ``inner_KNN``.
        centring: made for N.
    """
    products, mean_squares = _BorderedProducts.apply(border_KBN, inner_KNN, slots_B, centring)  # type: ignore[no-untyped-call]
    return products, mean_squares


def normalised(products_KK: Tensor, mean_squares_K: Tensor) -> Tensor:
    """Divide inner products by both lengths: correlations [K, K], 0 (without gradient) where a length is 0."""
    squared_lengths = torch.diagonal(products_KK)
    positive = squared_lengths > ROUNDING * mean_squares_K
    shares = torch.where(positive, squared_lengths, 1.0).rsqrt() * positive
    return products_KK * torch.outer(shares, shares)


def _between(rows_BF: Tensor, others_NF: Tensor) -> Tensor:
    # by way of a matrix product the diagonal would not be 0, and large offsets would cost digits
    return torch.cdist(rows_BF, others_NF, compute_mode="donot_use_mm_for_euclid_dist")


def _raw_products(matrices_KNN: Tensor) -> tuple[Tensor, Tensor]:
    flat = matrices_KNN.flatten(1)
    return flat @ flat.T, matrices_KNN.sum(dim=-1)


def _centred(products_KK: Tensor, row_sums_KN: Tensor, centring: Centring) -> Tensor:
    totals = row_sums_KN.sum(dim=-1)
    by_rows = centring.row_factor * (row_sums_KN @ row_sums_KN.T)
    return centring.scale * (products_KK - by_rows + centring.total_factor * torch.outer(totals, totals))


class _DistancesOf(torch.autograd.Function):
    """The backward pass needs one matrix product instead of a pass over B x N x Z differences."""

    @staticmethod
    def forward(ctx: Any, rows_BZ: Tensor, all_NZ: Tensor, bounds: Bounds) -> Tensor:
        found = torch.stack([_between(rows_BZ[:, start:stop], all_NZ[:, start:stop]) for start, stop in bounds])
        ctx.save_for_backward(rows_BZ, all_NZ, found)
        ctx.bounds = bounds
        return found

    @staticmethod
    def backward(ctx: Any, gradient_KBN: Tensor) -> tuple[Tensor, None, None]:
        rows_BZ, all_NZ, found_KBN = ctx.saved_tensors
        pulls = torch.where(found_KBN > 0.0, gradient_KBN / found_KBN, 0.0)
        # sum_j pull_ij (x_i - x_j)
        towards = (pulls.flatten(0, 1) @ all_NZ).unflatten(0, pulls.shape[:2])
        away = pulls.sum(dim=-1, keepdim=True)
        result = torch.zeros_like(rows_BZ)
        for block, (start, stop) in enumerate(ctx.bounds):
            result[:, start:stop] += away[block] * rows_BZ[:, start:stop] - towards[block, :, start:stop]
        return result, None, None


class _BorderedProducts(torch.autograd.Function):
    """Closed-form gradient of the rows of the batch, from those rows, the row sums and the totals."""

    @staticmethod
    def forward(
        ctx: Any, border_KBN: Tensor, inner_KNN: Tensor | None, slots_B: Tensor, centring: Centring
    ) -> tuple[Tensor, Tensor]:
        if inner_KNN is None:
            matrices = border_KBN
        else:
            matrices = inner_KNN.clone(memory_format=torch.contiguous_format)
            matrices[:, slots_B] = border_KBN
            matrices[:, :, slots_B] = border_KBN.transpose(1, 2)
        products, row_sums = _raw_products(matrices)
        mean_squares = torch.diagonal(products) / matrices.shape[-1] ** 2
        ctx.save_for_backward(border_KBN, row_sums, slots_B)
        ctx.centring = centring
        ctx.mark_non_differentiable(mean_squares)
        return _centred(products, row_sums, centring), mean_squares

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient_KK: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
        border_KBN, row_sums_KN, slots_B = ctx.saved_tensors
        centring: Centring = ctx.centring
        mixing = gradient_KK + gradient_KK.T
        sums = mixing @ row_sums_KN
        constant = centring.total_factor * sums.sum(dim=-1)[:, None, None]
        by_rows = 0.5 * centring.row_factor * (sums[:, slots_B, None] + sums[:, None, :])
        mixed = (mixing @ border_KBN.flatten(1)).view_as(border_KBN)
        return 2.0 * centring.scale * (mixed - by_rows + constant), None, None, None  # (i, j) and (j, i)
