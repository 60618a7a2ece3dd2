"""Differentiable collectives: the only module through which losses use `torch.distributed`.

Every function is the identity in a single process. Cross-sample losses computed from gathered rows give, after DDP has
averaged the gradients over ranks, exactly the gradient of the joined batch: the backward pass of a gather sums, over
the W ranks, the gradients for a row, and DDP's average divides that sum by W.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from menvae.differentiation import first_order
from menvae.errors import OtherRankFailedError

T = TypeVar("T")


_is_alone = False


@contextmanager
def alone() -> Iterator[None]:
    """Run the block as in a single process: every collective is the identity.

    For computations that every rank repeats on values already gathered from all ranks.
    """
    global _is_alone
    before, _is_alone = _is_alone, True
    try:
        yield
    finally:
        _is_alone = before


def num_ranks() -> int:
    """Return the number of processes that train together (1 without `torch.distributed`)."""
    if _is_alone:
        return 1
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the index of this process, from 0."""
    return dist.get_rank() if num_ranks() > 1 else 0


@contextmanager
def main_rank_first() -> Iterator[None]:
    """Run the block on rank 0 before the other ranks, which wait up to a week.

    Collectives usually time out after minutes; preparing a large cohort takes longer.

    Raises:
        OtherRankFailedError: on the other ranks, if rank 0 fails.
    """
    if num_ranks() == 1:
        yield
        return
    patient = _patient_group()
    succeeded = [True]
    if rank() > 0:
        dist.broadcast_object_list(succeeded, src=0, group=patient)
        if not succeeded[0]:
            raise OtherRankFailedError("rank 0 failed and reports the cause")
    try:
        yield
    except BaseException:
        succeeded = [False]
        raise
    finally:
        if rank() == 0:
            dist.broadcast_object_list(succeeded, src=0, group=patient)
    dist.destroy_process_group(patient)


def patient_barrier() -> None:
    """Wait for all ranks, up to a week."""
    if num_ranks() > 1:
        patient = _patient_group()
        dist.barrier(patient)
        dist.destroy_process_group(patient)


def _patient_group() -> Any:
    return dist.new_group(backend="gloo", timeout=timedelta(days=7))


class _GatherRows(torch.autograd.Function):
    """All-gather; the backward pass sums the gradients of this rank's rows over all ranks."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.num_rows = len(rows)
        gathered = [torch.empty_like(rows) for _ in range(num_ranks())]
        dist.all_gather(gathered, rows)
        return torch.cat(gathered)

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[rank() * ctx.num_rows : (rank() + 1) * ctx.num_rows]


class _SumOverRanks(torch.autograd.Function):
    """All-reduce in both directions."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


def gather_rows(rows: Tensor) -> Tensor:
    """Stack the rows of all ranks, with gradient: [B, ...] -> [B * ranks, ...], rank 0 first.

    Every rank must hold the same number of rows; the sampler in `menvae.data.batches.dataset` guarantees it.
    """
    if num_ranks() == 1:
        return rows
    gathered: Tensor = _GatherRows.apply(rows.contiguous())  # type: ignore[no-untyped-call]
    return gathered


def sum_over_ranks(values: Tensor) -> Tensor:
    """Sum a tensor of any shape over ranks, with gradient."""
    if num_ranks() == 1:
        return values
    total: Tensor = _SumOverRanks.apply(values)  # type: ignore[no-untyped-call]
    return total


def mean_over_ranks(values: Tensor) -> Tensor:
    """Average a tensor of any shape over ranks, with gradient; exact for batch means of equal batches."""
    return sum_over_ranks(values) / num_ranks()


def largest_over_ranks(values: Tensor) -> Tensor:
    """Return the largest of each element over ranks, without gradient, and without waiting for the device."""
    if num_ranks() == 1:
        return values
    largest = values.detach().clone()
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return largest


def any_rank(flag: bool, device: torch.device) -> bool:
    """Return True on every rank if ``flag`` is true on any of them."""
    if num_ranks() == 1:
        return flag
    votes = torch.tensor(int(flag), device=device)
    dist.all_reduce(votes, op=dist.ReduceOp.MAX)
    return bool(votes.item())


def gather_objects(value: T) -> list[T]:
    """Return the values of all ranks, rank 0 first, on every rank; for small picklable values outside the step."""
    if num_ranks() == 1:
        return [value]
    received: list[T | None] = [None] * num_ranks()
    dist.all_gather_object(received, value)
    return [item for item in received if item is not None]


def from_rank_zero(value: T) -> T:
    """Return rank 0's value on every rank; for small picklable values outside the step."""
    if num_ranks() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def barrier() -> None:
    """Wait for all ranks."""
    if num_ranks() > 1:
        dist.barrier()
