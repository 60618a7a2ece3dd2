"""Inner products of centred pairwise matrices, such as distances or kernels, without centring them explicitly.

Centring subtracts the row and column means of a symmetric matrix and adds the total mean. For matrices A and B with row
sums a_i, b_i and totals a, b, the inner product of their centred forms is

    scale (sum_ij A_ij B_ij - row_factor sum_i a_i b_i + total_factor a b),

where `Centring` holds the three factors. Its derivative with respect to A_ij is scale times centred B_ij, so the
gradient of some rows needs only these rows of B and the row sums.

Shape suffixes: K blocks of variables (matrices), N rows in total, B of them in the batch, Z columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from menvae.differentiation import first_order

__all__ = ["MIN_ROWS", "Centring", "bordered_products", "centred_products", "distances", "distances_of", "normalised"]
__all__ += ["LeaveOut", "u_centred"]

MIN_ROWS = 4
"""Smallest number of rows of the U-centred estimators."""

ROUNDING = 1e-12
"""A variance below this share of the mean squared entry counts as 0."""

Bounds = Sequence[tuple[int, int]]
"""(start, stop) of the columns of each block."""


@dataclass(frozen=True)
class Centring:
    """Factors of the inner product of centred matrices (see the module docstring)."""

    scale: float
    row_factor: float
    total_factor: float

    @classmethod
    def unbiased(cls, n: int) -> Centring:
        """U-centring of matrices with a zero diagonal, divided by n (n - 3) (Szekely & Rizzo 2014, definition 2).

        Raises:
            ValueError: fewer than 4 rows.
        """
        if n < MIN_ROWS:
            raise ValueError(f"a statistic of {n} rows is undefined; the U-centred estimator needs at least 4")
        return cls(1.0 / (n * (n - 3)), 2.0 / (n - 2), 1.0 / ((n - 1) * (n - 2)))

    @classmethod
    def biased(cls, n: int) -> Centring:
        """Double centring, divided by (n - 1)^2 (Gretton et al. 2005, definition 2).

        Raises:
            ValueError: fewer than 2 rows.
        """
        if n < 2:
            raise ValueError(f"a statistic of {n} rows is undefined; it needs at least 2")
        return cls(1.0 / (n - 1) ** 2, 2.0 / n, 1.0 / n**2)


def distances(rows_NF: Tensor) -> Tensor:
    """Euclidean distances [N, N] in double precision, with an exact 0 diagonal and gradient 0 at distance 0."""
    rows = rows_NF.double()
    return _between(rows, rows)


def distances_of(rows_BZ: Tensor, all_NZ: Tensor, bounds: Bounds) -> Tensor:
    """Euclidean distances [K, B, N] from some rows to all rows, one matrix per block of columns, in double precision.

    ``all_NZ`` is treated as constant and may contain the same rows; the gradient at distance 0 is 0. Each distance is
    bitwise symmetric and independent of the other rows.
    """
    found: Tensor = _DistancesOf.apply(rows_BZ.double(), all_NZ.detach().double(), tuple(bounds))  # type: ignore[no-untyped-call]
    return found


def centred_products(matrices_KNN: Tensor, centring: Centring) -> tuple[Tensor, Tensor]:
    """Return inner products [K, K] of centred symmetric matrices, and their detached mean squared entries [K]."""
    products, row_sums = _raw_products(matrices_KNN)
    mean_squares = torch.diagonal(products.detach()) / matrices_KNN.shape[-1] ** 2
    return _centred(products, row_sums, centring), mean_squares


class LeaveOut:
    """`centred_products` of symmetric matrices without some rows and columns.

    The sums over the whole matrices are computed once; each call costs B N operations to leave out B rows, not N^2.
    """

    def __init__(self, matrices_KNN: Tensor) -> None:
        """Args: matrices_KNN: symmetric matrices."""
        self._matrices_KNN = matrices_KNN
        self._products_KK, self._row_sums_KN = _raw_products(matrices_KNN)

    def __call__(self, rows_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return the U-centred products [K, K] of the other rows, and their mean squared entries [K].

        Args:
            rows_B: indices of the rows to leave out, each once.

        Raises:
            ValueError: fewer than 4 rows are left.
        """
        num_rows = self._matrices_KNN.shape[-1]
        kept = num_rows - len(rows_B)
        centring = Centring.unbiased(kept)
        border_KBN = self._matrices_KNN[:, rows_B]
        corner_KBB = border_KBN[:, :, rows_B]
        border, corner = border_KBN.flatten(1), corner_KBB.flatten(1)
        products_KK = self._products_KK - 2.0 * border @ border.T + corner @ corner.T
        is_kept = torch.ones(num_rows, dtype=torch.bool)
        is_kept[rows_B] = False
        row_sums_KN = (self._row_sums_KN - border_KBN.sum(dim=1))[:, is_kept]
        return _centred(products_KK, row_sums_KN, centring), torch.diagonal(products_KK) / kept**2


def u_centred(matrices_KNN: Tensor) -> Tensor:
    """U-centre symmetric matrices with a zero diagonal (Szekely & Rizzo 2014, definition 2): every row sums to 0.

    `centred_products` needs no such matrix; a permutation test, which reads the same one many times, does.

    >>> matrix = distances(torch.tensor([[0.0], [1.0], [3.0], [7.0]]))
    >>> u_centred(matrix[None])[0].sum(dim=0).abs().max().item() < 1e-12
    True
    """
    n = matrices_KNN.shape[-1]
    row_sums = matrices_KNN.sum(dim=-1, keepdim=True)
    totals = row_sums.sum(dim=1, keepdim=True)
    centred = matrices_KNN - (row_sums + row_sums.mT) / (n - 2) + totals / ((n - 1) * (n - 2))
    centred.diagonal(dim1=1, dim2=2).zero_()
    return centred


def bordered_products(
    border_KBN: Tensor, inner_KNN: Tensor | None, slots_B: Tensor, centring: Centring
) -> tuple[Tensor, Tensor]:
    """`centred_products` of known matrices in which the rows and columns of a batch are replaced.

    Only the border has a gradient. Entry (i, j) is the derivative with respect to the value shared by rows i and j, so
    the border must be a function of the batch's rows that treats the other row of a pair as constant, as
    `distances_of` does; each of two rows of the batch then gets its own share.

    Args:
        border_KBN: rows of the batch.
        inner_KNN: constant; its rows and columns of the batch are ignored. None if B = N.
        slots_B: indices of the batch's rows; 0 to N - 1 in order without ``inner_KNN``.
        centring: factors for N rows.
    """
    products, mean_squares = _BorderedProducts.apply(border_KBN, inner_KNN, slots_B, centring)  # type: ignore[no-untyped-call]
    return products, mean_squares


def normalised(products_KK: Tensor, mean_squares_K: Tensor) -> Tensor:
    """Divide inner products by both lengths: correlations [K, K], 0 without gradient where a length is 0."""
    squared_lengths = torch.diagonal(products_KK)
    positive = squared_lengths > ROUNDING * mean_squares_K
    shares = torch.where(positive, squared_lengths, 1.0).rsqrt() * positive
    return products_KK * torch.outer(shares, shares)


def _between(rows_BF: Tensor, others_NF: Tensor) -> Tensor:
    # a matrix product would give a non-zero diagonal and lose digits to large offsets
    return torch.cdist(rows_BF, others_NF, compute_mode="donot_use_mm_for_euclid_dist")


def _raw_products(matrices_KNN: Tensor) -> tuple[Tensor, Tensor]:
    flat = matrices_KNN.flatten(1)
    return flat @ flat.T, matrices_KNN.sum(dim=-1)


def _centred(products_KK: Tensor, row_sums_KN: Tensor, centring: Centring) -> Tensor:
    totals = row_sums_KN.sum(dim=-1)
    by_rows = centring.row_factor * (row_sums_KN @ row_sums_KN.T)
    return centring.scale * (products_KK - by_rows + centring.total_factor * torch.outer(totals, totals))


class _DistancesOf(torch.autograd.Function):
    """Distances with a backward pass by one matrix product instead of a pass over B x N x Z differences."""

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
    """Products with the closed-form gradient of the batch's rows, from these rows, the row sums and the totals."""

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
