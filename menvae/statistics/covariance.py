"""Covariance of latents over a batch, and its distance from the identity."""

from __future__ import annotations

import torch
from torch import Tensor


def covariance(rows_NF: Tensor) -> Tensor:
    """Covariance [F, F] of N rows, divided by N.

    Kumar et al. also divide by N; the unbiased estimate would divide by N - 1. Rows are centred first.

    Args:
        rows_NF: [N, F], at least float32.

    >>> covariance(torch.tensor([[0.0, 1.0], [2.0, 5.0]]))
    tensor([[1., 2.],
            [2., 4.]])
    """
    with torch.autocast(rows_NF.device.type, enabled=False):
        centred = rows_NF - rows_NF.mean(dim=0, keepdim=True)
        return centred.T @ centred / len(centred)


def shrinkage(num_rows: int) -> float:
    """Return the expectation of `covariance` of ``num_rows`` rows divided by the true covariance, (N - 1) / N.

    >>> shrinkage(2), shrinkage(100)
    (0.5, 0.99)
    """
    return (num_rows - 1) / num_rows


def aggregate_covariance(mean_NF: Tensor, logvar_NF: Tensor) -> Tensor:
    """Covariance [F, F] of the aggregate posterior 1/N sum_n N(mean_n, diag(exp(logvar_n))).

    By the law of total covariance it is Cov_n(mean) + mean_n(diag(exp(logvar))) (Kumar et al. 2018, section 2).

    >>> aggregate_covariance(torch.tensor([[0.0, 1.0], [2.0, 5.0]]), torch.zeros(2, 2))
    tensor([[2., 2.],
            [2., 5.]])
    """
    return covariance(mean_NF) + torch.diag(logvar_NF.exp().mean(dim=0))


def off_diagonal_sqr(matrix: Tensor) -> Tensor:
    """Sum of the squared off-diagonal entries."""
    return (matrix - torch.diag(torch.diagonal(matrix))).square().sum()


def diagonal_from_one_sqr(matrix: Tensor) -> Tensor:
    """Sum of the squared differences between the diagonal and 1."""
    return (torch.diagonal(matrix) - 1.0).square().sum()


def squared_correlations(covariance_FF: Tensor) -> Tensor:
    """Squared Pearson correlations [F, F] from a covariance matrix; 0 where a variance is 0.

    >>> squared_correlations(torch.tensor([[4.0, 2.0, 0.0], [2.0, 4.0, 0.0], [0.0, 0.0, 0.0]]))[0]
    tensor([1.0000, 0.2500, 0.0000])
    """
    variances = torch.diagonal(covariance_FF)
    scale = torch.outer(variances, variances)
    varies = scale > 0.0
    return torch.where(varies, covariance_FF.square() / torch.where(varies, scale, 1.0), 0.0)
