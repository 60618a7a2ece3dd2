import numpy as np
import torch

from menvae.statistics.covariance import (
    aggregate_covariance,
    covariance,
    diagonal_from_one_sqr,
    off_diagonal_sqr,
    squared_correlations,
)


def test_covariance_is_that_of_numpy() -> None:
    rows = torch.randn(7, 4, dtype=torch.float64) + 100.0
    np.testing.assert_allclose(covariance(rows), np.cov(rows.numpy(), rowvar=False, ddof=0), rtol=1e-10)


def test_float32_far_from_zero_and_under_autocast() -> None:
    rows = torch.randn(32, 5) + 1000.0
    with torch.autocast("cpu", torch.bfloat16):
        found = covariance(rows)
    assert found.dtype == torch.float32
    expected = np.cov(rows.double().numpy(), rowvar=False, ddof=0)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_aggregate_covariance_has_the_moments_of_the_mixture() -> None:
    """E[z z'] - E[z] E[z]' of an equal mixture of Gaussians, in loops."""
    mean, logvar = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    second = sum(np.outer(m, m) + np.diag(np.exp(v)) for m, v in zip(mean.numpy(), logvar.numpy(), strict=True)) / 5
    first = mean.numpy().mean(axis=0)
    np.testing.assert_allclose(aggregate_covariance(mean, logvar), second - np.outer(first, first), rtol=1e-10)


def test_penalties_by_hand() -> None:
    matrix = torch.tensor([[2.0, 3.0], [-1.0, 0.5]])
    assert off_diagonal_sqr(matrix).item() == 10.0
    assert diagonal_from_one_sqr(matrix).item() == 1.25


def test_squared_correlations_are_those_of_numpy() -> None:
    rows = torch.randn(9, 4, dtype=torch.float64)
    rows[:, 1] += 2.0 * rows[:, 0]
    expected = np.corrcoef(rows.numpy(), rowvar=False) ** 2
    np.testing.assert_allclose(squared_correlations(covariance(rows)), expected, rtol=1e-10)


def test_a_constant_is_uncorrelated_and_has_a_finite_gradient() -> None:
    rows = torch.randn(9, 2, dtype=torch.float64)
    rows = torch.cat([rows, torch.ones(9, 1, dtype=torch.float64)], dim=1).requires_grad_()
    squared = squared_correlations(covariance(rows))
    assert squared[2].tolist() == [0.0, 0.0, 0.0]
    squared.sum().backward()
    assert rows.grad is not None
    assert torch.isfinite(rows.grad).all()
