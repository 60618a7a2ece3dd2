"""Runners submit the jobs of a sweep and report their state: one module for each kind of queue.

A runner is a part like any other. ``hydra/launcher=<name>`` chooses it; ``conf/hydra/launcher/<name>.yaml`` holds its
keys, which are the keyword-only parameters of its constructor. A plugin's runner is one Python file and one such YAML
file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, cast

from menvae.errors import UserError
from menvae.registry import lookup, validated
from menvae.sweeps.sweep import Submission


class Fate(StrEnum):
    """State or outcome of a point."""

    FINISHED = "finished"
    COLLAPSED = "collapsed"
    PRUNED = "pruned"
    RUNNING = "running"
    PENDING = "pending"
    UNKNOWN = "unknown"
    NOT_STARTED = "not started"
    PAUSED = "paused"
    INTERRUPTED = "interrupted"
    TIMED_OUT = "timed out"
    PREEMPTED = "preempted"
    CANCELLED = "cancelled"
    OUT_OF_MEMORY = "out of memory"
    NODE_FAILED = "node failed"
    FAILED = "failed"
    LOST = "lost"
    REFUSED = "cannot run"

    @property
    def is_final(self) -> bool:
        """Whether no work is left."""
        return self in (Fate.FINISHED, Fate.COLLAPSED, Fate.PRUNED)

    @property
    def rests(self) -> bool:
        """Whether no work is left, unless a search lets a paused point go on."""
        return self.is_final or self == Fate.PAUSED

    @property
    def has_failed(self) -> bool:
        """Whether the point ended without finishing, or cannot run; one that a search has paused did not fail."""
        return not (self.is_final or self.is_active or self in (Fate.NOT_STARTED, Fate.PAUSED))

    @property
    def is_active(self) -> bool:
        """Whether the point is running, or will run without further action."""
        return self in (Fate.RUNNING, Fate.PENDING, Fate.UNKNOWN)

    @property
    def is_stopped(self) -> bool:
        """Whether somebody asked the point to end, which goes on from its checkpoint."""
        return self in (Fate.INTERRUPTED, Fate.CANCELLED)


class JobState(NamedTuple):
    """State of a job, as its runner knows it.

    Attributes:
        fate: PENDING, RUNNING, UNKNOWN if the queue does not answer, or how the queue ended the job: TIMED_OUT,
            PREEMPTED, CANCELLED, OUT_OF_MEMORY, NODE_FAILED. The run directory says how the run itself ended.
        reason: one sentence, or empty.
    """

    fate: Fate
    reason: str = ""


class Runner(ABC):
    """Runs the jobs of a sweep; a part of the group ``runner``.

    `menvae.sweeps.campaign.Campaign` calls `prepare` once, `submit` at most once, and then `advance` every `poll_s`
    seconds until no job is open. A job is a file for `menvae.runs.job.command`; its process trains one run and writes
    the exit code beside that file. `states` and `cancel` are static methods, because ``menvae-sweep`` and later
    launches call them in processes that know only the `Submission` of a job.

    Attributes:
        poll_s: seconds between two calls of `advance`.
        lag_s: seconds after which a job that is gone and left no outcome counts as lost; network file systems may be
            this slow.
        wait: whether the launching process waits for the end of the jobs.
        points_per_gpu: number of runs that share a GPU.
    """

    poll_s: float = 1.0
    lag_s: float = 90.0
    wait: bool = True
    points_per_gpu: int = 1

    @property
    def num_ranks(self) -> int | None:
        """Number of ranks that a job starts; None leaves it to ``trainer.devices``."""
        return None

    def prepare(self, folder: Path, config: Mapping[str, Any]) -> None:
        """Check that jobs can run, before anything is written.

        Args:
            folder: folder of the sweep, for scripts and logs; it may not exist yet.
            config: composed configuration of one of the points.

        Raises:
            UserError: the settings ask for something that is not available here.
        """
        self.folder = folder

    @abstractmethod
    def submit(self, jobs: Mapping[str, Path]) -> dict[str, Submission]:
        """Queue {run: job file}; return the submissions made immediately. `advance` returns the rest."""

    def advance(self) -> dict[str, Submission]:
        """Process events since the last call; return the submissions made meanwhile."""
        return {}

    @property
    def num_open(self) -> int:
        """Number of jobs that this object has yet to start or whose end it has yet to wait for."""
        return 0

    @abstractmethod
    def stop(self) -> None:
        """Stop the jobs that cannot outlive the launching process, which is about to end early."""

    @staticmethod
    @abstractmethod
    def states(submissions: Mapping[str, Submission]) -> Mapping[str, JobState]:
        """Return the state of jobs, in one query.

        Args:
            submissions: {run: its last submission}, all made by this runner, perhaps in another process or long ago.

        Returns:
            {run: state}, without jobs that ended on their own or that the queue no longer knows.
        """

    @staticmethod
    def cancel(submissions: Mapping[str, Submission]) -> Collection[str]:
        """Ask jobs to write their checkpoints and end, and do not wait for that; those that wait never start.

        Args:
            submissions: {run: its last submission}, of jobs that run or wait; some may have ended meanwhile.

        Returns:
            The runs whose jobs were asked; the others are not within reach of this process.

        Raises:
            UserError: the queue does not do that, or refuses it.
        """
        raise UserError("it has no way to end jobs; end them with the means of its queue")


def build_runner(launcher: Mapping[str, Any]) -> Runner:
    """Build the runner of a launcher.

    Args:
        launcher: the configuration ``hydra.launcher``: the runner's name (``runner``) and its keys.

    Raises:
        UserError: no such runner or key, or a value that the runner refuses.
    """
    factory = lookup("runner", launcher["runner"], "hydra.launcher.runner").factory
    keys = {key: value for key, value in launcher.items() if key not in ("runner", "_target_")}
    return cast(Runner, validated(factory, keys, "hydra.launcher"))
