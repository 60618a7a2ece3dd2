"""``hydra/launcher=local``: every point in a process of its own on this machine, some at a time, GPUs dealt out."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from hydra_plugins.menvae_launchers.sweep_launcher import SweepLauncher

if TYPE_CHECKING:
    from menvae.sweeps.campaign import Runner
    from menvae.sweeps.sweep import Submission, Sweep

_SECONDS_TO_STOP = 90.0  # for checkpoints of what runs when the launching process is stopped


class LocalLauncher(SweepLauncher):
    """Runs points in processes of this machine."""

    smallest = MappingProxyType({"num_parallel": 1, "gpus_per_run": 1})

    def make_runner(self, sweep: Sweep, config: Mapping[str, Any]) -> Runner:
        """Return a `LocalRunner`; raises `UserError` for numbers that this machine cannot serve."""
        import torch

        from menvae.errors import UserError

        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpus = visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]
        gpus = gpus if torch.cuda.is_available() else []
        gpus_per_run = self.settings["gpus_per_run"] or config["trainer"]["devices"] or 1
        num_parallel = self.settings["num_parallel"] or max(1, len(gpus) // gpus_per_run)
        if gpus and num_parallel * gpus_per_run > len(gpus):
            raise UserError(
                f"hydra.launcher.num_parallel={num_parallel} runs with {gpus_per_run} GPUs each need more than the "
                f"{len(gpus)} GPUs of this machine"
            )
        dealt = [gpus[slot * gpus_per_run : (slot + 1) * gpus_per_run] for slot in range(num_parallel)]
        return LocalRunner(sweep, dealt)


class LocalRunner:
    """Starts a process for every job, as soon as a slot is free; see `menvae.sweeps.campaign.Runner`."""

    name = "local"
    poll_s = 0.5

    def __init__(self, sweep: Sweep, slots: list[list[str]]) -> None:
        """Args: sweep: for logs. slots: the GPUs of each run that may run at a time, empty without GPUs."""
        self._sweep, self._slots = sweep, slots
        self._waiting: list[tuple[str, Path]] = []
        self._running: dict[int, tuple[subprocess.Popen[bytes], Path]] = {}  # by slot
        self._shown = 0  # bytes of the log of the one run, if there is one at a time

    def submit(self, jobs: Mapping[str, Path]) -> dict[str, Submission]:
        """Take jobs and start what fits."""
        self._waiting += list(jobs.items())
        return self.advance()

    @property
    def num_open(self) -> int:
        """Jobs that wait for a slot, and processes that have not ended."""
        return len(self._waiting) + len(self._running)

    def advance(self) -> dict[str, Submission]:
        """Show what the one run says, note which runs have ended, start others in their place."""
        submitted = {}
        for slot, gpus in enumerate(self._slots):
            if slot in self._running:
                process, log = self._running[slot]
                ended = process.poll() is not None
                if len(self._slots) == 1:
                    self._show(log)
                if not ended:
                    continue
                del self._running[slot]
            if self._waiting:
                run, job = self._waiting.pop(0)
                submitted[run] = self._start(slot, job, gpus)
        return submitted

    def stop(self) -> None:
        """Have running jobs write their checkpoints, and wait for that."""
        self._waiting.clear()
        for process, _ in self._running.values():
            process.terminate()
        until = time.monotonic() + _SECONDS_TO_STOP
        for process, _ in self._running.values():
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()

    def _start(self, slot: int, job: Path, gpus: list[str]) -> Submission:
        from menvae.cores import num_cores
        from menvae.runs.job import command
        from menvae.sweeps.sweep import Submission

        threads = str(max(1, num_cores() // len(self._slots)))
        environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads)}
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        log = job.with_name("output.log")
        self._shown = log.stat().st_size if log.exists() else 0
        with log.open("ab") as file:  # a group of its own: a Ctrl-C comes through this process, once
            process = subprocess.Popen(
                command(job),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
        self._running[slot] = (process, log)
        return Submission(self.name, str(process.pid), str(log))

    def _show(self, log: Path) -> None:
        with log.open("rb") as file:
            file.seek(self._shown)
            news = file.read()
        self._shown += len(news)
        sys.stderr.write(news.decode(errors="replace"))
