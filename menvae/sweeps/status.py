"""The fate of every point of a sweep, from its run directory, its last process, and SLURM."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from menvae.errors import ExitCode
from menvae.files import FolderLock
from menvae.sweeps import scheduler
from menvae.sweeps.sweep import Point, Sweep


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


_BY_SLURM_STATE = {
    "TIMEOUT": Fate.TIMED_OUT,
    "DEADLINE": Fate.TIMED_OUT,
    "CANCELLED": Fate.CANCELLED,
    "PREEMPTED": Fate.PREEMPTED,
    "OUT_OF_MEMORY": Fate.OUT_OF_MEMORY,
    "NODE_FAIL": Fate.NODE_FAILED,
    "BOOT_FAIL": Fate.NODE_FAILED,
}


@dataclass(frozen=True)
class PointStatus:
    """What is known of a point.

    Attributes:
        point: the point.
        fate: what became of it.
        reason: one sentence, or empty.
        run_dir: its run directory, or None before it has one.
        epochs: finished epochs.
        max_epochs: of how many; None before it has started.
        is_tracked: whether MLflow has all of its run.
    """

    point: Point
    fate: Fate
    reason: str
    run_dir: Path | None
    epochs: int
    max_epochs: int | None
    is_tracked: bool = False


def sweep_status(sweep: Sweep, points: Iterable[Point] | None = None) -> list[PointStatus]:
    """Return the status of the points of a sweep, all by default; asks SLURM once if any of them was sent there."""
    chosen = sweep.points() if points is None else list(points)
    last = [point.submissions[-1] for point in chosen if point.submissions]
    states = scheduler.job_states(submission.job for submission in last if submission.launcher == "slurm")
    return [_point_status(sweep, point, states) for point in chosen]


def _point_status(sweep: Sweep, point: Point, slurm_states: Mapping[str, str] | None) -> PointStatus:
    run_dir = sweep.runs / point.run
    run = _read(run_dir / "status.json")
    outcome = _read(sweep.folder(point) / "outcome.json")
    fate, reason = _fate(point, run, outcome, slurm_states, FolderLock.is_held(run_dir))
    if not reason and fate in (Fate.FAILED, Fate.LOST) and point.submissions:
        reason = _last_line(Path(point.submissions[-1].log))
    epochs = sum(1 for _ in (run_dir / "metrics.jsonl").open()) if (run_dir / "metrics.jsonl").is_file() else 0
    job = _read(sweep.job_file(point))
    max_epochs = job["config"]["trainer"]["max_epochs"] if job else None
    is_tracked = bool(run.get("tracked", False))
    return PointStatus(point, fate, reason, run_dir if run_dir.is_dir() else None, epochs, max_epochs, is_tracked)


def _fate(
    point: Point,
    run: Mapping[str, Any],
    outcome: Mapping[str, Any],
    slurm_states: Mapping[str, str] | None,
    run_is_held: bool,
) -> tuple[Fate, str]:
    state, reason = run.get("state", "new"), str(run.get("reason", ""))
    if state in ("finished", "collapsed", "pruned"):
        return Fate(state), reason
    last = point.submissions[-1] if point.submissions else None
    is_in_slurm = last is not None and last.launcher == "slurm"
    if is_in_slurm and slurm_states is None and not run_is_held:
        return Fate.UNKNOWN, "SLURM does not answer"
    slurm_state = (slurm_states or {}).get(last.job, "") if last is not None and is_in_slurm else ""
    if slurm_state in scheduler.WAITING:
        return Fate.PENDING, f"again, after {reason}" if state == "interrupted" else ""
    if run_is_held or slurm_state in scheduler.RUNNING or _has_process(point):
        return Fate.RUNNING, ""
    if slurm_state in _BY_SLURM_STATE:
        return _BY_SLURM_STATE[slurm_state], reason if state == "interrupted" else ""
    if reason == "out of memory":
        return Fate.OUT_OF_MEMORY, ""
    code = outcome.get("exit_code")
    if code == ExitCode.WRONG_INPUT or (state == "failed" and code != ExitCode.INTERRUPTED):
        return Fate.FAILED, reason if state == "failed" else ""
    if state == "interrupted" or code == ExitCode.INTERRUPTED:
        ran_out = reason.startswith(("SIGUSR2", "time limit"))
        return (Fate.TIMED_OUT if ran_out else Fate.INTERRUPTED), reason
    if last is None:
        return (Fate.LOST if state == "running" else Fate.NOT_STARTED), ""
    return (Fate.LOST if code is None else Fate.FAILED), ""


def _has_process(point: Point) -> bool:
    """Whether the process that the local launcher started last for a point is there."""
    last = point.submissions[-1] if point.submissions else None
    if last is None or last.launcher != "local":
        return False
    try:
        os.kill(int(last.job), 0)
        if not Path("/proc/self/cmdline").exists():
            return True
        command = Path(f"/proc/{last.job}/cmdline").read_bytes()  # a number may be that of another process now
    except OSError:  # also where it ended between these lines
        return False
    return f"/{point.run}/job.json".encode() in command


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return content


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
