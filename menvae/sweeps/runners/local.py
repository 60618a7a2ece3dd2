"""``hydra/launcher=local``: runs every point in its own process on this machine, and assigns GPUs to them.

With ``points_per_gpu``, several points share a GPU, or the cores of a machine without one. A warmed process for each
GPU then forks theirs.
"""

from __future__ import annotations

import codecs
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from menvae.cores import num_cores
from menvae.errors import UserError
from menvae.interruption import terminate
from menvae.registry import Field, register
from menvae.runs.job import command, log_signal
from menvae.sweeps.runners import Fate, JobState, Runner
from menvae.sweeps.runners.warmed import ForkedProcess, Process, WarmedHandle, is_named, warmed_process
from menvae.sweeps.sweep import Submission

_SECONDS_BETWEEN_LOOKS = 0.05
_SECONDS_TO_STOP = 90.0  # for running jobs to write checkpoints when the launching process is stopped

Count = Annotated[int, Field(ge=1)]


@register("runner", "local")
class LocalRunner(Runner):
    """Runs jobs as processes of this machine, each started as soon as a slot is free."""

    poll_s = 0.5
    lag_s = 2.0

    def __init__(
        self,
        *,
        num_parallel: Count | None = None,
        gpus_per_run: Count | None = None,
        points_per_gpu: Count = 1,
    ) -> None:
        """Set the number of slots.

        Args:
            num_parallel: number of concurrent runs; None: as many as the GPUs allow, or ``points_per_gpu`` without one.
            gpus_per_run: GPUs visible to each run; None: ``trainer.devices``, or 1.
            points_per_gpu: number of concurrent runs that share a GPU, or the cores without one; more than 1 forks them
                from a process that has imported everything and opened the cohort.
        """
        self._num_parallel, self._gpus_per_run, self.points_per_gpu = num_parallel, gpus_per_run, points_per_gpu
        self._slots: list[list[str]] = []  # GPUs of each slot
        self._waiting: list[tuple[str, Path]] = []
        self._running: dict[int, tuple[Process, Path]] = {}  # by slot
        self._starting: dict[int, tuple[str, Path]] = {}  # by slot: what its warmed process has yet to fork
        self._warmed: dict[tuple[str, ...], WarmedHandle] = {}  # by GPUs; one that ends is not replaced
        self._shown = 0  # bytes already shown of the log, if only one run is active at a time
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")  # a read may end within a character

    def prepare(self, folder: Path, config: Mapping[str, Any]) -> None:
        """Assign GPUs to slots; raises `UserError` if there are too few."""
        super().prepare(folder, config)
        points = self.points_per_gpu
        if points > 1 and sys.platform != "linux":
            raise UserError(
                f"hydra.launcher.points_per_gpu={points} needs Linux; use 1 and hydra.launcher.num_parallel"
            )
        gpus = _visible_gpus()
        gpus_per_run = self._gpus_per_run or config["trainer"].get("devices") or 1
        num_sets = len(gpus) // gpus_per_run if gpus else 1
        num_parallel = self._num_parallel or max(1, num_sets * points)
        shared = f", {points} to a GPU," * (points > 1)
        if gpus and num_parallel > num_sets * points:
            raise UserError(
                f"hydra.launcher.num_parallel={num_parallel} runs with {gpus_per_run} GPUs each{shared} exceed the "
                f"{len(gpus)} GPUs of this machine, which hold {num_sets * points} such runs"
            )
        if not gpus and 1 < points < num_parallel:
            raise UserError(
                f"hydra.launcher.num_parallel={num_parallel} exceeds hydra.launcher.points_per_gpu={points}, which is "
                "how many share the cores of a machine without a GPU"
            )
        sets = [gpus[first * gpus_per_run : (first + 1) * gpus_per_run] for first in range(num_sets)]
        self._slots = [sets[slot % num_sets] for slot in range(num_parallel)]

    def submit(self, jobs: Mapping[str, Path]) -> dict[str, Submission]:
        """Queue jobs, and start as many as there are free slots."""
        self._waiting += list(jobs.items())
        return self.advance()

    @property
    def num_open(self) -> int:
        """Number of jobs that wait for a slot or whose process has not ended."""
        return len(self._waiting) + len(self._running)

    def advance(self) -> dict[str, Submission]:
        """Show the output if there is only one slot, detect ended runs, and start waiting ones in their place."""
        submitted: dict[str, Submission] = {}
        for slot, gpus in enumerate(self._slots):
            if slot in self._running:
                process, log = self._running[slot]
                ended = process.poll() is not None
                submitted |= self._begun(slot)
                if len(self._slots) == 1:
                    self._show(log)
                if not ended or process is not self._running[slot][0]:  # which now starts alone
                    continue
                del self._running[slot]
                log_signal(process.returncode or 0, log)
            if self._waiting:
                self._start(slot, *self._waiting.pop(0), gpus)
                submitted |= self._begun(slot)
        return submitted

    def stop(self) -> None:
        """Ask running jobs to write their checkpoints and end, and wait for them."""
        self._waiting.clear()
        for process, _ in self._running.values():
            process.terminate()
        until = time.monotonic() + _SECONDS_TO_STOP
        for process, _ in self._running.values():
            while process.poll() is None and time.monotonic() < until:
                time.sleep(_SECONDS_BETWEEN_LOOKS)
            if process.poll() is None:
                process.kill()

    @staticmethod
    def states(submissions: Mapping[str, Submission]) -> dict[str, JobState]:
        """Return the jobs whose processes are alive, as running."""
        return {run: JobState(Fate.RUNNING) for run, last in submissions.items() if _has_process(last.job, run)}

    @staticmethod
    def cancel(submissions: Mapping[str, Submission]) -> set[str]:
        """Send SIGTERM to those that are processes of this machine."""
        alive = {run: int(last.job) for run, last in submissions.items() if _has_process(last.job, run)}
        for process in alive.values():
            with suppress(ProcessLookupError):  # it has just ended
                terminate(process)
        return set(alive)

    def _begun(self, slot: int) -> dict[str, Submission]:
        """Return the submission of the job in a slot, if its process has started since the last call."""
        process, log = self._running[slot]
        if slot not in self._starting:
            return {}
        if isinstance(process, ForkedProcess) and process.is_refused:  # then each starts alone
            _, job = self._starting[slot]
            process = self._start_alone(job, log, self._environment(self._slots[slot]))
            self._running[slot] = (process, log)
        if not process.pid:
            return {}
        run, _ = self._starting.pop(slot)
        return {run: Submission("local", str(process.pid), str(log))}

    def _start(self, slot: int, run: str, job: Path, gpus: list[str]) -> None:
        environment, log = self._environment(gpus), job.with_name("output.log")
        self._shown = log.stat().st_size if log.exists() else 0
        self._decoder.reset()
        self._starting[slot] = (run, job)
        if self.points_per_gpu == 1:
            self._running[slot] = (self._start_alone(job, log, environment), log)
            return
        if tuple(gpus) not in self._warmed:
            self._warmed[tuple(gpus)] = warmed_process(environment, self.folder / "warmed.log")
        self._running[slot] = (self._warmed[tuple(gpus)].start(job, log), log)

    def _environment(self, gpus: list[str]) -> dict[str, str]:
        """Return the environment of a job: its share of the cores, and its GPUs."""
        threads = str(max(1, num_cores() // len(self._slots)))
        environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads)}
        return {**environment, "CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else environment

    @staticmethod
    def _start_alone(job: Path, log: Path, environment: Mapping[str, str]) -> Process:
        with log.open("ab") as file:  # own process group: Ctrl-C reaches the job once, through this process
            return subprocess.Popen(
                command(job),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                process_group=0,
            )

    def _show(self, log: Path) -> None:
        with log.open("rb") as file:
            file.seek(self._shown)
            news = file.read()
        self._shown += len(news)
        sys.stderr.write(self._decoder.decode(news))


def _visible_gpus() -> list[str]:
    import torch  # slow, and needed only here

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]
    return gpus if torch.cuda.is_available() else []


def _has_process(process: str, run: str) -> bool:
    """Return whether the process that was started for a run is alive."""
    try:
        os.kill(int(process), 0)
        if not Path("/proc/self/cmdline").exists():
            return True
        arguments = Path(f"/proc/{process}/cmdline").read_bytes()  # process ids are reused
    except OSError:  # also if the process ended between these lines
        return False
    return f"/{run}/job.json".encode() in arguments or is_named(int(process), run)
