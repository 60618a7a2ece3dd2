"""What runs the jobs of a sweep, and says how they are: one module for each kind of queue.

A runner is a part like any other. ``hydra/launcher=<name>`` chooses it; ``conf/hydra/launcher/<name>.yaml`` holds its
keys, which are the keyword-only parameters of its constructor. A plugin's runner is one Python file and one such YAML
file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, cast

from menvae.registry import lookup, validated
from menvae.sweeps.sweep import Submission


class Fate(StrEnum):
    """What became of a point."""

    FINISHED = "finished"
    COLLAPSED = "collapsed"
    PRUNED = "pruned"
    RUNNING = "running"
    PENDING = "pending"
    UNKNOWN = "unknown"
    NOT_STARTED = "not started"
    INTERRUPTED = "interrupted"
    TIMED_OUT = "timed out"
    PREEMPTED = "preempted"
    CANCELLED = "cancelled"
    OUT_OF_MEMORY = "out of memory"
    NODE_FAILED = "node failed"
    FAILED = "failed"
    LOST = "lost"

    @property
    def is_final(self) -> bool:
        """Whether there is nothing left to do."""
        return self in (Fate.FINISHED, Fate.COLLAPSED, Fate.PRUNED)

    @property
    def has_failed(self) -> bool:
        """Whether it was begun and did not come to its end."""
        return not (self.is_final or self.is_active or self == Fate.NOT_STARTED)

    @property
    def is_active(self) -> bool:
        """Whether something is being done, or will be without anybody's help."""
        return self in (Fate.RUNNING, Fate.PENDING, Fate.UNKNOWN)


class JobState(NamedTuple):
    """What a runner knows of one of its jobs.

    Attributes:
        fate: PENDING, RUNNING, UNKNOWN where the queue does not answer, or how the queue ended the job: TIMED_OUT,
            PREEMPTED, CANCELLED, OUT_OF_MEMORY, NODE_FAILED. How the run itself ended is in its directory.
        reason: one sentence, or empty.
    """

    fate: Fate
    reason: str = ""


class Runner(ABC):
    """Runs the jobs of a sweep; a part of the group ``runner``.

    `menvae.sweeps.campaign.Campaign` calls `prepare` once, `submit` at most once, and then `advance` every `poll_s`
    seconds until nothing is open. A job is the file that `menvae.runs.job.command` takes; it trains one run, and its
    process writes its exit code beside that file. `states` is a static method, because ``menvae-sweep status`` and
    later launches ask it in processes that know no more of a job than its `Submission`.

    Attributes:
        poll_s: seconds between two looks.
        wait: whether the launching process waits for the end of the jobs.
    """

    poll_s: float = 1.0
    wait: bool = True

    @property
    def num_ranks(self) -> int | None:
        """How many processes of a job train together; None leaves it to ``trainer.devices``."""
        return None

    def prepare(self, folder: Path, config: Mapping[str, Any]) -> None:
        """Check that jobs can be run; nothing has been written yet.

        Args:
            folder: of the sweep, for scripts and logs; it may not exist yet.
            config: composed configuration of one of the points.

        Raises:
            UserError: the keys ask for something that is not available here.
        """
        self.folder = folder

    @abstractmethod
    def submit(self, jobs: Mapping[str, Path]) -> dict[str, Submission]:
        """Take {run: job file}; return the submissions made at once. `advance` returns the rest."""

    def advance(self) -> dict[str, Submission]:
        """Do what is due since the last call; return the submissions made in it."""
        return {}

    @property
    def num_open(self) -> int:
        """How many jobs this object still has to start, or whose end it has to wait for."""
        return 0

    @abstractmethod
    def stop(self) -> None:
        """End the jobs that cannot live without the launching process, which ends early."""

    @staticmethod
    @abstractmethod
    def states(submissions: Mapping[str, Submission]) -> Mapping[str, JobState]:
        """Return the state of jobs, all asked about at once.

        Args:
            submissions: {run: its last submission}, all made by this runner, perhaps in another process or long ago.

        Returns:
            {run: state}, without the jobs that have ended by themselves or that the queue has forgotten.
        """


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
