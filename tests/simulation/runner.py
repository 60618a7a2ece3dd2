"""The runner of launching processes: it submits to the simulated cluster as `SlurmRunner` does to a real one."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path

from cluster import HOUR, Asker

from menvae.registry import register
from menvae.sweeps.runners import Fate, JobState, Runner
from menvae.sweeps.sweep import Submission

askers: list[Asker] = []
"""The connection of this process; `states`, a static method, has no other way to it."""


class SimulatedRunner(Runner):
    """Submits as many jobs as the queue takes, and the rest as others end."""

    poll_s = HOUR / 2
    lag_s = 90.0

    def __init__(self, *, num_parallel: None = None, gpus_per_run: None = None, points_per_gpu: int = 1) -> None:
        """Take the keys of the local runner, whose launcher the commands choose."""
        self._waiting: dict[str, Path] = {}

    def submit(self, jobs: Mapping[str, Path]) -> dict[str, Submission]:
        self._waiting |= jobs
        return self.advance()

    def advance(self) -> dict[str, Submission]:
        now = dict(islice(self._waiting.items(), askers[0]("room")))
        if not now:
            return {}
        numbers = askers[0]("submit", now)
        for run in now:
            del self._waiting[run]
        return {run: Submission("simulated", numbers[run], str(now[run].with_name("output.log"))) for run in now}

    @property
    def num_open(self) -> int:
        return len(self._waiting)

    def stop(self) -> None:
        self._waiting.clear()

    @staticmethod
    def states(submissions: Mapping[str, Submission]) -> dict[str, JobState]:
        found = askers[0]("states", [last.job for last in submissions.values()])
        return {run: JobState(Fate(found[last.job])) for run, last in submissions.items() if last.job in found}


def install() -> None:
    """Register the runner, in this process alone."""
    register("runner", "simulated")(SimulatedRunner)
