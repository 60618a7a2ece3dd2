import itertools
import math
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from menvae.statistics.distance_correlation import (
    distances,
    signed_root,
    u_distance_correlation_sqr,
    u_distance_correlations_sqr,
    u_products,
)


@pytest.fixture(scope="module")
def dcor() -> ModuleType:
    """The package, which compiles itself when it is imported: not in every process that collects these tests."""
    import dcor

    return dcor


def draws(num_rows: int, *num_columns: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(num_rows, columns, generator=generator, dtype=torch.float64) for columns in num_columns]


def related(num_rows: int, left: int, right: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    x, noise, mixing = draws(num_rows, left, right, right, seed=seed)
    return x, noise + (x @ mixing[:left] if num_rows >= left else 0.0)


@pytest.mark.parametrize(("num_rows", "left", "right"), [(4, 1, 1), (5, 3, 2), (17, 1, 6), (40, 24, 84), (120, 8, 12)])
@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("anisotropic", [False, True])
def test_agrees_with_the_dcor_package(
    dcor: ModuleType, num_rows: int, left: int, right: int, offset: float, anisotropic: bool
) -> None:
    x, y = draws(num_rows, left, right, seed=num_rows)
    y = y + x[:, :1].square()
    if anisotropic:
        x = x * torch.logspace(-1.0, 2.0, left, dtype=torch.float64)
    x = x + offset
    expected = dcor.u_distance_correlation_sqr(x.numpy(), y.numpy())
    assert u_distance_correlation_sqr(x, y).item() == pytest.approx(expected, abs=1e-9)


def test_products_are_unbiased_squared_distance_covariances(dcor: ModuleType) -> None:
    x, y = draws(9, 2, 3)
    expected = dcor.u_distance_covariance_sqr(x.numpy(), y.numpy())
    assert u_products([distances(x), distances(y)])[0, 1].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("unit", [1e-8, 1e8])
def test_the_unit_does_not_matter(unit: float) -> None:
    x, y = related(9, 2, 3)
    expected = u_distance_correlation_sqr(x, y).item()
    assert u_distance_correlation_sqr(unit * x, y).item() == pytest.approx(expected, abs=1e-9)
    constant = torch.full((9, 1), 0.1 * unit, dtype=torch.float64)
    assert u_distance_correlation_sqr(constant, y).item() == 0.0


def test_every_pair_of_many_blocks(dcor: ModuleType) -> None:
    blocks = draws(20, 2, 3, 4)
    blocks[2] = blocks[2] + blocks[0][:, :1]
    found = u_distance_correlations_sqr(blocks)
    for (i, x), (j, y) in itertools.product(enumerate(blocks), repeat=2):
        assert found[i, j].item() == pytest.approx(dcor.u_distance_correlation_sqr(x.numpy(), y.numpy()), abs=1e-9)


def test_autocast_does_not_touch_it(dcor: ModuleType) -> None:
    x, y = (block.float() for block in draws(30, 24, 84))
    expected = dcor.u_distance_correlation_sqr(x.double().numpy(), y.double().numpy())
    with torch.autocast("cpu", torch.bfloat16):
        found = u_distance_correlation_sqr(x, y)
    assert found.dtype == torch.float64
    assert found.item() == pytest.approx(expected, abs=1e-9)


def test_mean_over_all_permutations_is_exactly_0() -> None:
    x, y = draws(5, 2, 3)
    permuted = [u_distance_correlation_sqr(x, y[list(order)]).item() for order in itertools.permutations(range(5))]
    assert np.mean(permuted) == pytest.approx(0.0, abs=1e-12)
    assert min(permuted) < 0.0 < max(permuted)


def test_mean_over_independent_draws_is_0_within_its_standard_error() -> None:
    values = np.array([u_distance_correlation_sqr(*draws(12, 3, 2, seed=seed)).item() for seed in range(300)])
    assert abs(values.mean()) < 3.0 * values.std(ddof=1) / math.sqrt(len(values))
    assert (values < 0.0).any()


def test_null_distribution_at_256_rows() -> None:
    """The standard deviation of the estimator is sqrt(2 / (n (n - 3))) = 0.0056 where the blocks are independent."""
    values = np.array([u_distance_correlation_sqr(*draws(256, 24, 8, seed=seed)).item() for seed in range(300)])
    assert abs(values.mean()) < 3.0 * 0.00556 / math.sqrt(len(values))
    assert values.std(ddof=1) == pytest.approx(0.00556, rel=0.15)


def test_similarity_transforms_change_nothing() -> None:
    x, y = draws(15, 3, 2)
    y = y + x[:, :2]
    rotation = torch.linalg.qr(draws(3, 3)[0]).Q
    expected = u_distance_correlation_sqr(x, y).item()
    assert u_distance_correlation_sqr(5.0 * x @ rotation - 2.0, y).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    "degenerate",
    [
        torch.full((7, 3), 0.1, dtype=torch.float64),
        torch.cat([torch.zeros(6, 1), torch.ones(1, 1)]).double(),
        torch.eye(7, dtype=torch.float64),
    ],
    ids=["constant", "one subject differs", "all distances equal"],
)
def test_block_without_distance_variance_gives_0_and_no_gradient(degenerate: Tensor) -> None:
    block = degenerate.requires_grad_()
    (other,) = draws(7, 2)
    found = u_distance_correlations_sqr([block, other])
    assert found[0].tolist() == [0.0, 0.0]
    found[0, 1].backward()
    assert block.grad is not None
    assert not block.grad.any()


def test_gradient_is_the_derivative() -> None:
    x, y = (block.requires_grad_() for block in draws(7, 2, 3))
    assert torch.autograd.gradcheck(u_distance_correlation_sqr, (x, y))


def test_gradient_at_coincident_points_is_finite() -> None:
    x, y = draws(8, 2, 3)
    x[3], x[5] = x[1], x[1]
    x.requires_grad_()
    u_distance_correlation_sqr(x, y).backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    assert x.grad.any()


@pytest.mark.parametrize("num_rows", [1, 2, 3])
def test_3_rows_or_fewer_are_refused(num_rows: int) -> None:
    with pytest.raises(ValueError, match=f"{num_rows} rows is undefined"):
        u_distance_correlation_sqr(*draws(num_rows, 2, 2))


def test_signed_root_keeps_the_sign() -> None:
    assert signed_root(torch.tensor([0.09, 0.0, -0.49])).tolist() == pytest.approx([0.3, 0.0, -0.7])
