"""HSIC against loops over its definitions, another package, closed forms, and the distribution of independent draws."""

import itertools
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import pdist
from torch import Tensor

from menvae.statistics.hsic import Estimator, bordered_hsic, hsic, median_distances, normalised_hsic
from menvae.statistics.pairwise import distances, distances_of

Array = NDArray[np.float64]


def draws(num_rows: int, *num_columns: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(num_rows, columns, generator=generator, dtype=torch.float64) for columns in num_columns]


def kernel_by_loops(rows: Array, bandwidth: float) -> list[list[float]]:
    def value(x: Array, y: Array) -> float:
        return math.exp(-sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) / (2.0 * bandwidth**2))

    return [[value(x, y) for y in rows] for x in rows]


def unbiased_by_loops(k: list[list[float]], le: list[list[float]]) -> float:
    """Means over tuples of different rows, k_ij l_ij + k_ij l_qr - 2 k_ij l_iq: as a U-statistic, Song's eq. 5."""
    n = range(len(k))
    pairs = [k[i][j] * le[i][j] for i, j in itertools.permutations(n, 2)]
    fours = [k[i][j] * le[q][r] for i, j, q, r in itertools.permutations(n, 4)]
    threes = [k[i][j] * le[i][q] for i, j, q in itertools.permutations(n, 3)]
    return sum(pairs) / len(pairs) + sum(fours) / len(fours) - 2 * sum(threes) / len(threes)


def biased_by_loops(k: list[list[float]], le: list[list[float]]) -> float:
    """(n - 1)^-2 trace(K H L H), factor by factor."""
    n = len(k)
    h = [[(i == j) - 1.0 / n for j in range(n)] for i in range(n)]
    total = 0.0
    for a, b, c, d in itertools.product(range(n), repeat=4):
        total += k[a][b] * h[b][c] * le[c][d] * h[d][a]
    return total / (n - 1) ** 2


@pytest.mark.parametrize("bandwidth", [0.7, 3.0])
@pytest.mark.parametrize(("num_rows", "left", "right"), [(4, 1, 1), (7, 3, 2)])
def test_agrees_with_loops_over_the_definition(num_rows: int, left: int, right: int, bandwidth: float) -> None:
    x, y = draws(num_rows, left, right)
    y = y + x[:, :1]
    kernels = [kernel_by_loops(block.numpy(), bandwidth) for block in (x, y)]
    unbiased, biased = (hsic([x, y], bandwidth, estimator)[0, 1].item() for estimator in ("unbiased", "biased"))
    assert unbiased == pytest.approx(unbiased_by_loops(*kernels), abs=1e-13)
    assert biased == pytest.approx(biased_by_loops(*kernels), abs=1e-13)


HYPPO = """
import json, sys
import numpy as np
from hyppo.independence import Hsic
given = json.load(sys.stdin)
x, y, settings = np.array(given["x"]), np.array(given["y"]), {"gamma": 0.5 / given["bandwidth"] ** 2}
print(json.dumps([Hsic(bias=False, **settings).statistic(x, y), Hsic(bias=True, **settings).statistic(x, y) ** 2]))
"""


@pytest.mark.parametrize(("num_rows", "left", "right", "bandwidth"), [(6, 1, 1, 0.7), (25, 3, 2, 1.5)])
def test_normalised_agrees_with_the_hyppo_package(num_rows: int, left: int, right: int, bandwidth: float) -> None:
    """Its biased statistic is a root; it runs in a process of its own, where Numba does not compile for 20 s."""
    x, y = draws(num_rows, left, right)
    y = y + x[:, :1]
    given = json.dumps({"x": x.tolist(), "y": y.tolist(), "bandwidth": bandwidth})
    told = subprocess.run(
        [sys.executable, "-c", HYPPO],
        input=given,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
    )
    found = [normalised_hsic([x, y], bandwidth, estimator)[0, 1].item() for estimator in ("unbiased", "biased")]
    assert found == pytest.approx(json.loads(told.stdout), abs=1e-12)


def test_two_points_by_hand() -> None:
    """H K H = (1 - k) / 2 [[1, -1], [-1, 1]], and so trace(K H L H) = (1 - k)(1 - l)."""
    x, y = torch.tensor([[0.0, 0.0], [3.0, 4.0]]), torch.tensor([[1.0], [2.0]])
    k, le = math.exp(-25.0 / 8.0), math.exp(-1.0 / 8.0)
    assert hsic([x, y], 2.0, "biased")[0, 1].item() == pytest.approx((1 - k) * (1 - le), abs=1e-14)
    assert normalised_hsic([x, y], 2.0, "biased")[0, 1].item() == pytest.approx(1.0, abs=1e-12)


def test_normalised_is_the_alignment_of_centred_kernels() -> None:
    x, y = draws(9, 2, 3)
    middle = np.eye(9) - 1.0 / 9.0
    left, right = (middle @ np.array(kernel_by_loops(block.numpy(), 1.5)) @ middle for block in (x, y))
    expected = (left * right).sum() / (np.linalg.norm(left) * np.linalg.norm(right))
    assert normalised_hsic([x, y], 1.5, "biased")[0, 1].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("num_rows", [5, 6, 11])
def test_bandwidth_is_the_median_distance(num_rows: int) -> None:
    x, y = draws(num_rows, 3, 1)
    expected = [np.percentile(pdist(block.numpy()), 50, method="inverted_cdf") for block in (x, y)]
    found = torch.stack([distances(x), distances(y)])
    assert median_distances(found).tolist() == pytest.approx(expected, abs=1e-12)
    some = median_distances(found[:, :2])
    wanted = [np.sort(np.delete(d[:2].numpy().ravel(), [0, num_rows + 1]))[num_rows - 2] for d in found]
    assert some.tolist() == pytest.approx(wanted, abs=1e-12)


def test_bandwidth_of_rows_that_coincide() -> None:
    rows = torch.zeros(6, 1)
    assert median_distances(distances(rows)[None]).tolist() == [1.0]
    rows[0] = 3.0
    assert median_distances(distances(rows)[None]).tolist() == [1.0]  # 5 of 15 distances are 3
    both = torch.stack([distances(0.1 * rows), distances(2.0 * rows)])
    assert median_distances(both).tolist() == pytest.approx([0.1, 2.0])


def test_bandwidth_has_no_gradient() -> None:
    x, y = draws(8, 2, 2)
    fixed = median_distances(torch.stack([distances(x), distances(y)]))
    gradients = []
    for bandwidths in (fixed, None):
        left = x.clone().requires_grad_()
        if bandwidths is None:
            value = hsic([left, y])[0, 1]
        else:
            stacked = torch.stack([distances(left), distances(y)])
            kernels = torch.exp(-stacked.square() / (2 * bandwidths[:, None, None].square()))
            k, le = (kernel - torch.diag(torch.diagonal(kernel)) for kernel in kernels)
            ones = torch.ones(8, dtype=torch.float64)
            value = (k * le).sum() + (ones @ k @ ones) * (ones @ le @ ones) / 42.0 - (ones @ k @ le @ ones) / 3.0
            value = value / 40.0
        gradients.append(torch.autograd.grad(value, left)[0])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0.0, atol=1e-14)


@pytest.mark.parametrize("estimator", ["unbiased", "biased"])
def test_gradient_is_the_derivative(estimator: Estimator) -> None:
    x, y = (block.requires_grad_() for block in draws(6, 2, 3))
    assert torch.autograd.gradcheck(lambda a, b: hsic([a, b], 1.3, estimator), (x, y))
    assert torch.autograd.gradcheck(lambda a, b: normalised_hsic([a, b], 1.3, estimator)[0, 1], (x, y))


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("estimator", ["unbiased", "biased"])
def test_border_gives_value_and_gradient_of_the_whole(estimator: Estimator, normalise: bool) -> None:
    bounds, slots = [(0, 2), (2, 5)], torch.tensor([6, 1])
    (rows,), (new,) = draws(9, 5), draws(2, 5, seed=1)
    new.requires_grad_()
    whole = rows.index_copy(0, slots, new)
    expected = (normalised_hsic if normalise else hsic)([whole[:, :2], whole[:, 2:]], 1.3, estimator)[0, 1]
    inner = distances_of(rows, rows, bounds)
    border = distances_of(new, whole, bounds)
    bandwidths = torch.full((2,), 1.3, dtype=torch.float64)
    found = bordered_hsic(border, inner, slots, bandwidths, estimator=estimator, normalise=normalise)[0, 1]
    assert found.item() == pytest.approx(expected.item(), abs=1e-14)
    gradients = [torch.autograd.grad(value, new)[0] for value in (found, expected)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0.0, atol=1e-13)


def test_border_is_unbiased_and_normalised_if_nothing_else_is_said() -> None:
    (rows,) = draws(7, 5)
    bounds, every = [(0, 2), (2, 5)], torch.arange(7)
    bandwidths = torch.full((2,), 1.3, dtype=torch.float64)
    found = bordered_hsic(distances_of(rows, rows, bounds), None, every, bandwidths)[0, 1]
    kernels = [kernel_by_loops(rows[:, start:stop].numpy(), 1.3) for start, stop in bounds]
    products = [unbiased_by_loops(*pair) for pair in itertools.combinations_with_replacement(kernels, 2)]
    expected = products[1] / math.sqrt(products[0] * products[2])
    assert found.item() == pytest.approx(expected, abs=1e-12)
    assert normalised_hsic([rows[:, :2], rows[:, 2:]], 1.3)[0, 1].item() == pytest.approx(expected, abs=1e-12)


def test_mean_over_all_permutations_is_exactly_0() -> None:
    x, y = draws(5, 2, 3)
    permuted = [hsic([x, y[list(order)]], 1.0)[0, 1].item() for order in itertools.permutations(range(5))]
    assert np.mean(permuted) == pytest.approx(0.0, abs=1e-13)
    assert min(permuted) < 0.0 < max(permuted)


def test_similarity_transforms_change_nothing_with_the_median() -> None:
    x, y = draws(15, 3, 2)
    y = y + x[:, :2]
    rotation = torch.linalg.qr(draws(3, 3)[0]).Q
    expected = hsic([x, y])[0, 1].item()
    assert hsic([5.0 * x @ rotation - 2.0, y])[0, 1].item() == pytest.approx(expected, abs=1e-12)


def test_dependence_without_correlation_is_found() -> None:
    (x,) = draws(200, 1)
    assert normalised_hsic([x, x.square()])[0, 1].item() > 0.1
    assert abs(normalised_hsic([x, *draws(200, 1, seed=5)])[0, 1].item()) < 0.02


def test_constant_block_gives_0_and_no_gradient() -> None:
    constant = torch.full((7, 2), 0.1, dtype=torch.float64, requires_grad=True)
    found = normalised_hsic([constant, *draws(7, 2)])
    assert found[0].tolist() == [0.0, 0.0]
    found[0, 1].backward()
    assert constant.grad is not None
    assert not constant.grad.any()
