import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from menvae.statistics.gaussian import (
    calibrated_nats,
    free_bits,
    log_density,
    product_with_prior,
    standard_log_density,
)

KL = [[0.1, 0.5, 3.0], [0.3, 0.0, 1.0]]


@pytest.mark.parametrize(
    ("nats", "clamping", "expected"),
    [
        (0.0, "batch_mean", 2.45),  # 0.2 + 0.25 + 2.0
        (0.0, "per_sample", 2.45),
        (0.22, "batch_mean", 0.22 + 0.25 + 2.0),
        (0.22, "per_sample", ((0.22 + 0.5 + 3.0) + (0.3 + 0.22 + 1.0)) / 2),
        (9.0, "batch_mean", 27.0),
        (9.0, "per_sample", 27.0),
    ],
)
def test_free_bits_by_hand(nats: float, clamping: str, expected: float) -> None:
    found = free_bits(torch.tensor(KL), nats, clamping)  # type: ignore[arg-type]
    assert found.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("clamping", "expected"),
    [("batch_mean", [[0.0, 0.5, 0.5], [0.0, 0.5, 0.5]]), ("per_sample", [[0.0, 0.5, 0.5], [0.5, 0.0, 0.5]])],
)
def test_free_bits_leave_what_is_below_the_floor_alone(clamping: str, expected: list[list[float]]) -> None:
    kl = torch.tensor(KL, requires_grad=True)
    free_bits(kl, 0.22, clamping).backward()  # type: ignore[arg-type]
    assert kl.grad is not None
    assert kl.grad.tolist() == expected


@pytest.mark.parametrize("scale", [1e-3, 0.3, 1.0, 20.0])
def test_calibrated_likelihood_is_the_minimum_over_sigma(scale: float) -> None:
    residuals = scale * np.random.default_rng(0).standard_t(4, size=50)

    def nats_per_entry(log_sigma: float) -> float:
        return float(-norm.logpdf(residuals, scale=math.exp(log_sigma)).mean())

    best = minimize_scalar(nats_per_entry, bracket=(math.log(scale) - 2.0, math.log(scale) + 2.0), tol=1e-12)
    error = torch.tensor(np.mean(residuals**2))
    assert calibrated_nats(error).item() == pytest.approx(best.fun, abs=1e-9)


def test_gradient_of_the_calibrated_likelihood_is_that_at_the_best_sigma() -> None:
    residuals = torch.randn(6, dtype=torch.float64, requires_grad=True)
    calibrated_nats(residuals.square().mean()).backward()
    variance = residuals.detach().square().mean()
    assert residuals.grad is not None
    # envelope theorem: at the optimal sigma its own derivative does not count, d/dr of r^2 / (2 s^2 n) is r / (s^2 n)
    torch.testing.assert_close(residuals.grad, residuals.detach() / (6.0 * variance))


def test_product_is_that_of_the_densities() -> None:
    mean, logvar = torch.tensor([[[1.5], [-0.5]]]), torch.tensor([[[-1.0], [0.7]]])
    z = torch.linspace(-12.0, 12.0, 20001, dtype=torch.float64)
    density = torch.exp(-0.5 * z.square())
    for factor in range(2):
        density = density * torch.exp(-0.5 * (z - mean[0, factor]).square() / logvar[0, factor].exp())
    density = density / density.sum()
    found_mean, found_logvar = product_with_prior(mean, logvar, None)
    expected = (density * z).sum()
    assert found_mean.item() == pytest.approx(expected.item(), abs=1e-6)
    assert found_logvar.exp().item() == pytest.approx((density * (z - expected).square()).sum().item(), rel=1e-5)


def test_product_without_factors_is_the_prior_and_none_overflows() -> None:
    mean, logvar = torch.full((2, 3, 4), torch.nan), torch.full((2, 3, 4), torch.nan)
    for value in product_with_prior(mean, logvar, torch.zeros(2, 3, dtype=torch.bool)):
        assert torch.equal(value, torch.zeros(2, 4))
    mean, logvar = torch.tensor([[[2.0], [3.0]]]), torch.tensor([[[-500.0], [500.0]]], requires_grad=True)
    found_mean, found_logvar = product_with_prior(mean, logvar, None)
    assert (found_mean.item(), found_logvar.item()) == (2.0, -500.0)
    (found_mean + found_logvar).sum().backward()
    assert logvar.grad is not None
    assert torch.isfinite(logvar.grad).all()


@pytest.mark.parametrize("logvar", [-6.0, 0.0, 2.0])
def test_log_densities_are_those_of_scipy(logvar: float) -> None:
    x, mean = torch.randn(5, 3) + 20.0, torch.randn(5, 3) + 20.0
    expected = norm.logpdf(x.double(), mean.double(), math.exp(0.5 * logvar))
    np.testing.assert_allclose(log_density(x, mean, torch.tensor(logvar)), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(standard_log_density(x), norm.logpdf(x.double()), rtol=1e-6)


def test_free_bits_of_each_dimension() -> None:
    floors = torch.tensor([0.25, 0.0, 2.5])
    assert free_bits(torch.tensor(KL), floors, "batch_mean").item() == pytest.approx(0.25 + 0.25 + 2.5)
    per_sample = ((0.25 + 0.5 + 3.0) + (0.3 + 0.0 + 2.5)) / 2
    assert free_bits(torch.tensor(KL), floors, "per_sample").item() == pytest.approx(per_sample)
