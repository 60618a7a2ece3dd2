from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist, squareform
from torch import Tensor

from menvae.errors import UserError
from menvae.registry import build
from menvae.terms import Term, TermContext
from menvae.types import Batch, ModelOutput

BLOCKS = (slice(0, 2), slice(2, 3), slice(3, 6))


def rows(seed: int, number: int) -> Tensor:
    return torch.randn(number, 6, generator=torch.Generator().manual_seed(seed))


def oracle(
    table: Tensor,
    remembered: Tensor | None = None,
    *,
    normalise: bool = True,
    bandwidth: Callable[[np.ndarray], float] | None = None,
) -> float:
    """Sum over pairs, with numpy: kernels of a median bandwidth, centred as matrices of U-statistics are."""
    n, centred = len(table), []
    for block in BLOCKS:
        columns = table[:, block].double().numpy()
        known = columns if remembered is None else remembered[:, block].double().numpy()
        width = np.percentile(pdist(known), 50, method="inverted_cdf") if bandwidth is None else bandwidth(columns)
        kernel = np.exp(-0.5 * (squareform(pdist(columns)) / width) ** 2)
        np.fill_diagonal(kernel, 0.0)
        sums = kernel.sum(axis=0)
        kernel = kernel - (sums[:, None] + sums) / (n - 2) + sums.sum() / ((n - 1) * (n - 2))
        np.fill_diagonal(kernel, 0.0)
        centred.append(kernel / (np.linalg.norm(kernel) if normalise else np.sqrt(n * (n - 3))))
    return float(sum((left * right).sum() for left, right in combinations(centred, 2)))


@pytest.fixture
def term(context: TermContext) -> Callable[..., Term]:
    return lambda **settings: build("term", {"name": "hsic", **settings}, context)


MakeTerm = Callable[..., Term]
MakeOutput = Callable[..., ModelOutput]


@pytest.mark.parametrize("normalise", [True, False])
def test_batch_alone(term: MakeTerm, output_of: MakeOutput, batch_of: Callable[..., Batch], normalise: bool) -> None:
    means = rows(0, 12)
    means[:, 2] += means[:, 0]
    values = term(buffer_size=0, normalise=normalise)(batch_of(), output_of(means))
    assert values["hsic"].item() == pytest.approx(oracle(means, normalise=normalise), abs=1e-6)
    assert values["hsic_rows"].item() == 12.0


def test_batch_with_memory_and_its_gradient(
    term: MakeTerm, output_of: MakeOutput, batch_of: Callable[..., Batch]
) -> None:
    hsic_term = term(buffer_size=10)
    for seed in range(5):
        hsic_term.commit(output_of(rows(seed, 3)))
    remembered = torch.cat([rows(seed, 3) for seed in (4, 3, 2, 1)])[:10]
    newest = rows(9, 3).requires_grad_()
    value = hsic_term(batch_of(), output_of(newest))["hsic"]
    others = remembered[:7]
    assert value.item() == pytest.approx(oracle(torch.cat([newest.detach(), others]), remembered), abs=1e-6)
    value.backward()
    assert newest.grad is not None
    step = 1e-4
    for row, column in ((0, 0), (1, 2), (2, 5)):
        moved = []
        for sign in (1.0, -1.0):
            table = torch.cat([newest.detach(), others]).double()
            table[row, column] += sign * step
            moved.append(oracle(table, remembered))
        assert newest.grad[row, column].item() == pytest.approx((moved[0] - moved[1]) / (2 * step), abs=1e-5)


def test_gradient_of_all_rows(term: MakeTerm, output_of: MakeOutput, batch_of: Callable[..., Batch]) -> None:
    found = []
    for scale in ("batch", "all_rows"):
        hsic_term = term(buffer_size=12, gradient_scale=scale)
        hsic_term.commit(output_of(rows(1, 11)))
        newest = rows(2, 3).requires_grad_()
        value = hsic_term(batch_of(), output_of(newest))["hsic"]
        value.backward()
        found.append((value.detach(), newest.grad))
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[1][1], 4.0 * found[0][1])


def test_bandwidth_of_the_configuration(term: MakeTerm, output_of: MakeOutput, batch_of: Callable[..., Batch]) -> None:
    means = rows(0, 12)
    value = term(bandwidth=0.8)(batch_of(), output_of(means))["hsic"].item()
    assert value == pytest.approx(oracle(means, bandwidth=lambda _: 0.8), abs=1e-6)
    assert value != pytest.approx(oracle(means), abs=1e-3)


def test_bandwidth_while_fewer_than_4_rows_are_remembered(
    term: MakeTerm, output_of: MakeOutput, batch_of: Callable[..., Batch]
) -> None:
    """It is then the median distance from rows of the batch to all others, each as often as it is met."""
    hsic_term, newest = term(buffer_size=10), rows(9, 3)
    hsic_term.commit(output_of(rows(1, 3)))

    def median(columns: np.ndarray) -> float:
        met = [np.linalg.norm(columns[i] - columns[j]) for i in range(3) for j in range(6) if i != j]
        return float(np.percentile(met, 50, method="inverted_cdf"))

    value = hsic_term(batch_of(), output_of(newest))["hsic"].item()
    assert value == pytest.approx(oracle(torch.cat([newest, rows(1, 3)]), bandwidth=median), abs=1e-6)
    hsic_term.commit(output_of(rows(2, 1)))  # 4 rows are enough
    four = torch.cat([rows(2, 1), rows(1, 3)])
    value = hsic_term(batch_of(), output_of(newest))["hsic"].item()
    assert value == pytest.approx(oracle(torch.cat([newest, four]), four), abs=1e-6)


@pytest.mark.parametrize("normalise", [True, False])
def test_biased_estimate(
    term: MakeTerm, output_of: MakeOutput, batch_of: Callable[..., Batch], normalise: bool
) -> None:
    """trace(K H L H) / (n - 1)^2, or the alignment of both kernels, centred by H = 1 - 1 / n."""
    means, middle = rows(0, 9), np.eye(9) - 1.0 / 9.0
    centred = []
    for block in BLOCKS:
        columns = means[:, block].double().numpy()
        kernel = middle @ np.exp(-0.5 * squareform(pdist(columns, "sqeuclidean")) / 1.3**2) @ middle
        centred.append(kernel / (np.linalg.norm(kernel) if normalise else 8.0))
    expected = sum((left * right).sum() for left, right in combinations(centred, 2))
    made = term(bandwidth=1.3, estimator="biased", normalise=normalise, buffer_size=0)
    assert made(batch_of(), output_of(means))["hsic"].item() == pytest.approx(expected, abs=1e-6)


def test_4_rows_are_enough(term: MakeTerm, output_of: MakeOutput, batch_of: Callable[..., Batch]) -> None:
    values = term()(batch_of(), output_of(rows(3, 4)))
    assert values["hsic"].item() == pytest.approx(oracle(rows(3, 4)), abs=1e-6)
    assert values["hsic_rows"].item() == 4.0


def test_similarity_transforms_of_a_partition_change_nothing(
    term: MakeTerm, output_of: MakeOutput, batch_of: Callable[..., Batch]
) -> None:
    means = rows(0, 12)
    means[:, 2] += means[:, 3]
    rotation = torch.linalg.qr(torch.randn(3, 3)).Q
    moved = torch.cat([means[:, :3], 3.0 * means[:, 3:] @ rotation + 1.0], dim=1)
    values = [term()(batch_of(), output_of(table))["hsic"].item() for table in (means, moved)]
    assert values[0] == pytest.approx(values[1], abs=1e-5)


def test_fewer_than_4_rows_give_0_that_still_has_a_gradient(
    term: MakeTerm, output_of: MakeOutput, batch_of: Callable[..., Batch]
) -> None:
    for means in (rows(0, 3), torch.zeros(3, 6)):  # an encoder may begin with means of 0
        means.requires_grad_()
        values = term()(batch_of(), output_of(means))
        values["hsic"].backward()
        assert {name: value.item() for name, value in values.items()} == {"hsic": 0.0, "hsic_rows": 3.0}
        assert means.grad is not None
        assert not means.grad.any()


def test_wrong_settings_are_refused(term: MakeTerm) -> None:
    with pytest.raises(UserError, match=r"partitions .* two or more different"):
        term(partitions=["vol"])
    with pytest.raises(UserError, match=r"bandwidth: 0\.0 is not allowed"):
        term(bandwidth=0.0)
