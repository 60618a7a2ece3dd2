"""Job files, with which launchers and multi-rank runs start a process that trains one run."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from menvae.errors import UserError
from menvae.files import DamagedFileError, Types, read_json, write_json, write_text
from menvae.masking import holds_password
from menvae.runs.directory import RUNS, read_status
from menvae.runs.environment import describe_process
from menvae.studies import Trial

APPLICATION = "menvae.apps.job"
"""Module that trains a job; it imports everything, so code that starts a job only refers to it by name."""
WARMED_APPLICATION = "menvae.apps.warmed"
"""Module of the process that has imported everything, and forks a process for each job."""
STANDS_FOR = "menvae.stands_for"
"""Tag of a run in trackers: the runs of failed points in whose place it ran, with other values of some keys."""
_TYPES: Types = {"config": dict, "run": (str, NoneType), "point": (str, NoneType), "trial": (dict, NoneType)}


@dataclass(frozen=True)
class Job:
    """One run to train.

    Attributes:
        config: composed configuration of ``conf/train.yaml``, resolved, so that edits in ``conf/`` between submission
            and start have no effect.
        run: name of the run directory if a launcher chose it, or None.
        point: folder of the run's point in a sweep, or None.
        trial: trial of a study that this run carries out, or None.
        stands_for: runs of failed points of the sweep in whose place this one runs.
    """

    config: Mapping[str, Any]
    run: str | None = None
    point: Path | None = None
    trial: Trial | None = None
    stands_for: tuple[str, ...] = ()

    @property
    def sweep(self) -> Path | None:
        """The folder of the run's sweep, or None."""
        return None if self.point is None else self.point.parents[1]

    @classmethod
    def read(cls, path: Path) -> Job:
        """Read a job file; raises `UserError` if it is missing or damaged."""
        content = read_json(path, _TYPES, {"stands_for": list})
        if not content:
            raise UserError(f"job file '{path}' does not exist")
        point, trial = content["point"], content["trial"]
        try:
            of_study = Trial(**trial) if trial else None
        except TypeError as error:
            raise DamagedFileError(f"'{path}' is damaged: {error}") from None
        stands_for = tuple(map(str, content.get("stands_for", [])))
        return cls(content["config"], content["run"], Path(point) if point else None, of_study, stands_for)

    def write(self, path: Path) -> None:
        """Write a job file atomically; only its owner may read it if it holds a password, which the job needs."""
        content: dict[str, Any] = {"config": dict(self.config), "run": self.run}
        content |= {"point": str(self.point) if self.point else None}
        content |= {"trial": asdict(self.trial) if self.trial else None}
        content |= {"stands_for": list(self.stands_for)} if self.stands_for else {}
        # on one line, which Python writes many times faster than indented ones: a sweep may have ten thousand
        text = json.dumps(content) + "\n"
        write_text(path, text, private=holds_password(content, text))

    def reason(self, since: float) -> str:
        """Return the reason in ``status.json`` if it was written at or after ``since`` (`time.time`), else nothing."""
        path = Path(self.config["output_dir"]) / RUNS / (self.run or "") / "status.json"
        is_new = path.is_file() and path.stat().st_mtime >= since
        try:
            return str(read_status(path.parent).get("reason", "")) if is_new else ""
        except DamagedFileError:
            return ""

    def leave_outcome(self, exit_code: int, stopped_by: str = "") -> None:
        """Write ``outcome.json`` into the folder of the point, if there is one.

        Args:
            exit_code: that of the process of this job.
            stopped_by: what interrupted it, such as ``SIGUSR2``, or empty.
        """
        if self.point is not None:
            process = {**describe_process(), "ended_at": time.time()}
            content = {"exit_code": exit_code, "stopped_by": stopped_by, **process}
            write_json(self.point / "outcome.json", content)

    def outcome(self) -> dict[str, Any]:
        """Return the content of ``outcome.json``; empty if it is missing or damaged."""
        try:
            return {} if self.point is None else read_json(self.point / "outcome.json", {"exit_code": int})
        except DamagedFileError:
            return {}


def command(path: Path) -> list[str]:
    """Return the command line that trains the job in a file."""
    return [sys.executable, "-m", APPLICATION, str(path)]


def time_has_run_out(stopped_by: str) -> bool:
    """Return whether what interrupted a run was the time limit of its job or of the run itself, and no user."""
    return stopped_by.startswith(("SIGUSR2", "time limit"))


def log_signal(code: int, log: Path) -> None:
    """Add to the log of a process that a signal ended it: the process itself could not.

    Args:
        code: its exit code, that of a signal below 0.
        log: its log.
    """
    if code < 0:
        cause = "; the kernel kills processes when memory runs out" if -code == signal.SIGKILL else ""
        with log.open("a") as file:
            file.write(f"ended by signal {-code} ({signal.strsignal(-code)}){cause}\n")
