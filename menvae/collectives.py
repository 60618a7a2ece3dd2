"""Differentiable collectives: the only place that talks to `torch.distributed` in a loss.

Every function is the identity in a single process. Cross-sample losses computed from gathered rows give, after DDP has
averaged the gradients over ranks, exactly the gradient of the joined batch: the backward pass of a gather sums the
gradients that all ranks hold for a row, and that sum over W ranks is what the average divides by W.
"""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as differentiable
from torch import Tensor

T = TypeVar("T")


def num_ranks() -> int:
    """Return the number of processes that train together (1 without `torch.distributed`)."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the index of this process, from 0."""
    return dist.get_rank() if num_ranks() > 1 else 0


def gather_rows(rows: Tensor) -> Tensor:
    """Stack the rows of all ranks, with gradient: [B, ...] -> [B * ranks, ...], rank 0 first.

    Every rank must hold the same number of rows; the sampler of `menvae.data.dataset` sees to it.
    """
    if num_ranks() == 1:
        return rows
    gathered: tuple[Tensor, ...] = differentiable.all_gather(rows.contiguous())  # type: ignore[no-untyped-call]
    return torch.cat(gathered, dim=0)


def sum_over_ranks(values: Tensor) -> Tensor:
    """Sum a tensor of any shape over ranks, with gradient."""
    if num_ranks() == 1:
        return values
    total: Tensor = differentiable.all_reduce(values.contiguous().clone())  # type: ignore[no-untyped-call]
    return total


def mean_over_ranks(values: Tensor) -> Tensor:
    """Average a tensor of any shape over ranks, with gradient; exact for batch means of equal batches."""
    return sum_over_ranks(values) / num_ranks()


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
