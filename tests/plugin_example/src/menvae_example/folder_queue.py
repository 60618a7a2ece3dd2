"""A runner whose queue is a folder: jobs wait there until a worker, on any machine with access to it, takes them.

``python -m menvae_example.folder_queue FOLDER`` is a worker. It runs waiting jobs, oldest first, and ends when the
queue is empty; with ``--stay`` it keeps waiting. Any number of workers may run at once.
"""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from menvae.files import write_json
from menvae.registry import register
from menvae.runs.job import command
from menvae.sweeps.runners import Fate, JobState, Runner
from menvae.sweeps.sweep import Submission

_WAITING, _RUNNING = ".json", ".running"


@register("runner", "folder_queue")
class FolderQueue(Runner):
    """Puts jobs into a folder that workers take them from; the jobs outlive the launching process."""

    def __init__(self, *, folder: str | None = None, wait: bool = True) -> None:
        """Choose the queue.

        Args:
            folder: path of the queue; None: ``queue`` in ``output_dir``.
            wait: False returns after submitting.
        """
        self.wait = wait
        self._queue = None if folder is None else Path(folder).expanduser().resolve()

    def prepare(self, folder: Path, config: Mapping[str, Any]) -> None:
        """Set the path of the queue."""
        super().prepare(folder, config)
        self._queue = self._queue or Path(config["output_dir"]) / "queue"

    def submit(self, jobs: Mapping[str, Path]) -> dict[str, Submission]:
        """Put all jobs into the folder; names of entries start with a timestamp, so that they sort by age."""
        assert self._queue is not None, "call prepare first"
        self._queue.mkdir(parents=True, exist_ok=True)
        submitted = {}
        for run, job in jobs.items():
            entry, log = self._queue / f"{time.time_ns():020d}_{run}{_WAITING}", job.with_name("output.log")
            write_json(entry, {"command": command(job), "log": str(log)})
            submitted[run] = Submission("folder_queue", str(entry), str(log))
        return submitted

    def stop(self) -> None:
        """Leave the jobs to the workers."""

    @staticmethod
    def states(submissions: Mapping[str, Submission]) -> dict[str, JobState]:
        """Return the states of jobs that wait in the folder or that a worker runs."""
        states = {}
        for run, submission in submissions.items():
            entry = Path(submission.job)
            if entry.exists():
                states[run] = JobState(Fate.PENDING)
            elif _is_held(entry.with_suffix(_RUNNING)):
                states[run] = JobState(Fate.RUNNING)
        return states


def work(folder: Path) -> bool:
    """Run the oldest waiting job; return whether there was one."""
    for entry in sorted(folder.glob(f"*{_WAITING}")):
        taken = entry.with_suffix(_RUNNING)
        try:
            file = entry.open("r+")
        except FileNotFoundError:
            continue  # another worker was faster
        with file:
            if not _lock(file, fcntl.LOCK_EX) or not entry.exists():
                continue  # so was one between the two
            entry.rename(taken)
            job = json.load(file)
            with Path(job["log"]).open("ab") as log:
                subprocess.run(job["command"], stdout=log, stderr=subprocess.STDOUT, check=False)
            taken.unlink()
        return True
    return False


def _is_held(entry: Path) -> bool:
    """Return whether the worker that took an entry is alive: its lock ends with the process, even after a crash."""
    try:
        with entry.open() as file:
            return not _lock(file, fcntl.LOCK_SH)
    except FileNotFoundError:
        return False


def _lock(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


if __name__ == "__main__":
    while work(Path(sys.argv[1])) or "--stay" in sys.argv:
        time.sleep(0.1)
