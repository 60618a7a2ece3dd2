"""Start of the processes that train together on one machine."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from menvae.cores import num_cores
from menvae.errors import ExitCode, RunInterruptedError, UserError
from menvae.interruption import STOP_SIGNALS
from menvae.training.place import RENDEZVOUS

_GRACE_SECONDS = 20.0
_POLL_SECONDS = 0.1
_ALWAYS_ALLOWED_RANKS = 4  # on a CPU: slow on fewer cores, but useful to try what runs elsewhere


def run_ranks(command: Sequence[str], num_ranks: int) -> int:
    """Run a command as ``num_ranks`` ranks of one process group on this machine, and wait for all.

    Stop signals are forwarded. If a rank fails, the others have 20 s to fail by themselves (they lose their connection
    to it); then they receive SIGTERM and, 5 s later, SIGKILL.

    Args:
        command: command of each rank, which reads its rank from the environment and joins with `place`.
        num_ranks: number of ranks, at least 2.

    Returns:
        0 if all ranks return 0; 2 if any rank rejects the user's input; otherwise the exit code of the first rank that
        fails, or 1 if a signal ended it.

    Raises:
        UserError: more ranks than GPUs, or than cores on a machine without GPUs.
        RunInterruptedError: a stop signal ended a rank before it had a handler.
    """
    num_gpus = torch.cuda.device_count()
    if 0 < num_gpus < num_ranks:
        raise UserError(
            f"trainer.devices={num_ranks}: this machine has {num_gpus} GPUs; at most one process per GPU is allowed"
        )
    num_cpu_ranks = max(num_cores(), _ALWAYS_ALLOWED_RANKS)
    if not num_gpus and num_ranks > num_cpu_ranks:
        raise UserError(
            f"trainer.devices={num_ranks}: this machine has no GPU and {num_cores()} cores; at most {num_cpu_ranks} "
            "processes are allowed"
        )
    with tempfile.TemporaryDirectory(prefix="menvae-") as folder:
        shared = {
            **os.environ,
            RENDEZVOUS: (Path(folder) / "rendezvous").as_uri(),
            "WORLD_SIZE": str(num_ranks),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, num_cores() // num_ranks))),
        }
        ranks = [
            _start_rank(command, {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(num_ranks)
        ]
        with _passing_signals_on(ranks) as passed_on:
            return _wait(ranks, passed_on)


def _start_rank(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    # In its own process group, a rank receives Ctrl-C once, forwarded by this process.
    return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, process_group=0)


@contextmanager
def _passing_signals_on(ranks: Sequence[subprocess.Popen[bytes]]) -> Iterator[set[int]]:
    """Forward stop signals to the ranks; yield the set of forwarded signals, which keeps growing."""
    passed_on: set[int] = set()

    def pass_on(number: int, _: object) -> None:
        passed_on.add(number)
        for rank in ranks:
            if rank.poll() is None:
                rank.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in STOP_SIGNALS}
    try:
        yield passed_on
    finally:
        for rank in ranks:
            rank.kill()  # any are left only after an error in this process
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(ranks: Sequence[subprocess.Popen[bytes]], passed_on: Collection[int]) -> int:
    first_code, first_failed_at = 0, 0.0
    while None in (codes := [rank.poll() for rank in ranks]):
        if not first_code and any(codes):
            first_code, first_failed_at = next(code for code in codes if code), time.monotonic()
        waited = time.monotonic() - first_failed_at
        if first_code and waited > _GRACE_SECONDS:
            for rank in ranks:
                if rank.poll() is None:
                    rank.send_signal(signal.SIGTERM if waited < _GRACE_SECONDS + 5.0 else signal.SIGKILL)
            time.sleep(1.0)
        time.sleep(_POLL_SECONDS)
    if ExitCode.WRONG_INPUT in codes:
        return ExitCode.WRONG_INPUT
    code = first_code or next(filter(None, codes), ExitCode.DONE)
    if -code in passed_on:  # the rank had no handler yet, hence nothing to save
        raise RunInterruptedError(signal.Signals(-code).name)
    return code if code >= 0 else 1
