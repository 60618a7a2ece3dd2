"""Which process this is and what it computes on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Place:
    """Where this process stands.

    Attributes:
        device: what it computes on.
        rank: its index among ``num_ranks`` processes.
        num_ranks: processes that train together.
    """

    device: torch.device
    rank: int
    num_ranks: int

    @property
    def is_main(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0


@contextmanager
def place() -> Iterator[Place]:
    """Join the process group that ``torchrun`` describes in the environment, if any, and leave it at the end."""
    num_ranks, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        torch.cuda.set_device(device)
    if num_ranks == 1:
        yield Place(device, 0, 1)
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Place(device, rank, num_ranks)
    finally:
        dist.destroy_process_group()
