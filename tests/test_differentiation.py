"""Gradients of gradients are right or refused, and never left out silently."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from menvae import collectives
from menvae.differentiation import first_order
from menvae.statistics import total_correlation
from menvae.statistics.distance_correlation import bordered_u_distance_correlations_sqr
from menvae.statistics.pairwise import distances_of


@pytest.fixture(scope="module", autouse=True)
def one_rank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    meeting = tmp_path_factory.mktemp("ranks") / "meeting"
    dist.init_process_group("gloo", f"file://{meeting}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @first_order
    def backward(ctx: Any, incoming: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3.0 * x**2 * incoming


def cube(x: Tensor) -> Tensor:
    found: Tensor = Cube.apply(x)  # type: ignore[no-untyped-call]
    return found


def test_first_derivative_is_untouched() -> None:
    x = torch.tensor([2.0, 3.0], requires_grad=True)
    cube(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [12.0, 27.0]


def log_densities(x: Tensor) -> Tensor:
    weights = total_correlation.weights("mws", len(x), 100)
    return total_correlation.log_densities(x, x.detach() + 0.1, torch.zeros_like(x), weights).joint


def bordered(x: Tensor) -> Tensor:
    bounds = ((0, 1), (1, 3))
    return bordered_u_distance_correlations_sqr(distances_of(x, x, bounds), None, torch.arange(len(x)))


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (cube, "Cube"),
        (log_densities, "AggregateLogDensities"),
        (bordered, "BorderedProducts"),
        (collectives._GatherRows.apply, "GatherRows"),
        (collectives._SumOverRanks.apply, "SumOverRanks"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("is_constant", [True, False], ids=["below a sum", "below a trained factor"])
def test_second_derivative_is_refused(
    function: Callable[[Tensor], Tensor],
    name: str,
    is_constant: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(total_correlation.CHUNK_ENTRIES, "cpu", 1)
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    factor = torch.tensor(math.pi, dtype=torch.float64, requires_grad=not is_constant)
    with pytest.raises(RuntimeError, match=f"{name} has no second derivative"):
        torch.autograd.grad((factor * function(x)).sum(), x, create_graph=True)


def test_distances_of_a_batch_have_a_second_derivative() -> None:
    generator = torch.Generator().manual_seed(0)
    others = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    x = torch.randn(2, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda moved: distances_of(moved, others, ((0, 1), (1, 3))), (x,))
