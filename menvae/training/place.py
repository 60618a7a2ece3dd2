"""Device and rank of a process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

from menvae.errors import UserError

RENDEZVOUS = "MENVAE_RENDEZVOUS"
"""Environment variable with the rendezvous file of `run_ranks`; a free port could be taken before its use."""


@dataclass(frozen=True)
class Place:
    """Device and rank of this process.

    Attributes:
        device: device of this process.
        rank: index among ``num_ranks`` processes.
        num_ranks: number of processes that train together.
    """

    device: torch.device
    rank: int
    num_ranks: int

    @property
    def is_main(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0


def num_ranks_started() -> int | None:
    """Return the number of processes that `torchrun`, a launcher or `run_ranks` started; None for a single process."""
    return int(os.environ["WORLD_SIZE"]) if "WORLD_SIZE" in os.environ else None


@contextmanager
def place(devices: int | None = None) -> Iterator[Place]:
    """Join the process group described by the environment (as set by `torchrun`), if any, and leave it on exit.

    Args:
        devices: requested number of processes; None: any.

    Raises:
        UserError: a different number of processes was started.
    """
    num_ranks, rank = num_ranks_started() or 1, int(os.environ.get("RANK", "0"))
    if devices is not None and devices != num_ranks:
        raise UserError(
            f"trainer.devices={devices}, but {num_ranks} processes were launched; "
            "set trainer.devices=null to use what torchrun or a launcher starts"
        )
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        torch.cuda.set_device(device)
    if num_ranks == 1:
        yield Place(device, 0, 1)
        return
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=os.environ.get(RENDEZVOUS, "env://"),
        rank=rank,
        world_size=num_ranks,
    )
    try:
        yield Place(device, rank, num_ranks)
    finally:
        dist.destroy_process_group()
