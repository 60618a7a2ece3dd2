"""The fate of every point of a sweep, from its run directory, its last process, and the runner of its job."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from menvae.errors import ExitCode, UserError
from menvae.files import DamagedFileError, FolderLock, read_json
from menvae.registry import lookup
from menvae.runs.directory import ENDED, read_status, trackers_of
from menvae.runs.reading import value_at
from menvae.sweeps.rereading import Appended, Remembered, Stamp, stamp_of
from menvae.sweeps.runners import Fate, JobState, Runner
from menvae.sweeps.sweep import Point, Submission, Sweep, read_point

NO_TRACE = "its job is gone and wrote nothing: cancelled before it started, or its node has failed"
_MAX_EPOCHS = re.compile(rb'"trainer": \{[^{}]*?"max_epochs": (\d+)')
"""The key in the text of a job file; its section has no sections."""
_PAUSE_AFTER = re.compile(rb'"pause_after": (\d+|null)')
_LENGTHS = {"max_epochs": "config.trainer.max_epochs", "pause_after": "trial.pause_after"}


@dataclass(frozen=True)
class PointStatus:
    """Status of a point.

    Attributes:
        point: the point.
        fate: its state or outcome.
        reason: one sentence, or empty.
        run_dir: its run directory, or None if it does not exist yet.
        epochs: number of finished epochs.
        max_epochs: number of epochs of the run; None before a job is prepared.
        trackers: keys of the trackers that have the complete run.
        stand_in: number of the point that runs in its place, if it has failed and there is one.
        stands_for: numbers of the failed points in whose place it runs.
        pause_after: number of epochs after which its last job pauses; None if it does not.
    """

    point: Point
    fate: Fate
    reason: str
    run_dir: Path | None
    epochs: int
    max_epochs: int | None
    trackers: frozenset[str] = frozenset()
    stand_in: int | None = None
    stands_for: tuple[int, ...] = ()
    pause_after: int | None = None

    @property
    def last_epoch(self) -> int | None:
        """Number of epochs after which its last job ends; None before a job is prepared."""
        return self.max_epochs if self.pause_after is None else self.pause_after

    @property
    def goes_on(self) -> bool:
        """Whether it is paused, and its search has let it go on."""
        return self.fate == Fate.PAUSED and self.epochs < (self.last_epoch or 0)

    @property
    def has_failed(self) -> bool:
        """Whether it ended without finishing or cannot run, and no other point runs in its place."""
        return self.fate.has_failed and self.stand_in is None

    @property
    def is_stopped(self) -> bool:
        """Whether somebody asked it to end, and no other point runs in its place."""
        return self.fate.is_stopped and self.stand_in is None


@dataclass(frozen=True)
class ProcessTimes:
    """What the last process of a point wrote of its times, in seconds since 1970; None if it did not.

    Attributes:
        began_at: when it began to train, if it has not ended its run since.
        ended_at: when it ended its run, from ``status.json``.
        left_at: when it ended, from ``outcome.json``.
    """

    began_at: float | None = None
    ended_at: float | None = None
    left_at: float | None = None


class StatusReader:
    """Reads the status of the points of a sweep again and again.

    A file that has not changed is not read again, and of a point whose run has ended, only two files are looked at.

    Args:
        sweep: the sweep.
        ask_every_s: seconds for which the answers of runners are taken to hold.
    """

    def __init__(self, sweep: Sweep, *, ask_every_s: float = 0.0) -> None:
        self._sweep, self._ask_every_s = sweep, ask_every_s
        self._point = Remembered(read_point)
        self._run = Remembered(lambda path: read_status(path.parent))
        self._outcome = Remembered(lambda path: read_json(path, {"exit_code": int}, {"ended_at": float}))
        self._lengths = Remembered(_lengths)
        self._epochs = Appended(0, lambda total, lines: total + len(lines))
        self._last_line = Remembered(_last_line)
        self._ended: dict[str, tuple[Stamp | None, PointStatus]] = {}
        self._asked: Mapping[str, Submission] = {}
        self._answered: Mapping[str, JobState] = {}
        self._asked_at = 0.0

    def __call__(self, points: Iterable[Point] | None = None) -> list[PointStatus]:
        """Return the status of points (default: all of the sweep); queries each runner once for all its jobs."""
        chosen = self._sweep.points(self._point) if points is None else list(points)
        known = [self._of_ended(point) for point in chosen]
        going = [point for point, status in zip(chosen, known, strict=True) if status is None]
        jobs = self._jobs(
            {point.run: point.submissions[-1] for point in going if point.submissions and not self._has_ended(point)}
        )
        statuses = [
            status or self._status(point, jobs.get(point.run)) for point, status in zip(chosen, known, strict=True)
        ]
        return _with_stand_ins(statuses) if points is None else statuses

    def _of_ended(self, point: Point) -> PointStatus | None:
        """Return the last status of a point if its run had ended, and neither of them has changed since."""
        stamp, status = self._ended.get(point.run, (None, None))
        is_same = status is not None and status.point == point and stamp == stamp_of(self._run_file(point))
        return status if is_same else None

    def _has_ended(self, point: Point) -> bool:
        """Return whether the run of a point has ended: what its runner says does not matter then."""
        return _unless_damaged(lambda: self._run(self._run_file(point)), []).get("state") in ENDED

    def _jobs(self, submissions: Mapping[str, Submission]) -> Mapping[str, JobState]:
        """Return what runners say of jobs; what they said last, if that was a moment ago and of the same jobs."""
        now = time.monotonic()
        if submissions != self._asked or now - self._asked_at >= self._ask_every_s:
            self._asked, self._asked_at, self._answered = submissions, now, _job_states(submissions)
        return self._answered

    def _status(self, point: Point, job_state: JobState | None) -> PointStatus:
        sweep, run_dir = self._sweep, self._sweep.runs / point.run
        damaged = [point.damage] if point.damage else []
        stamp = stamp_of(self._run_file(point))
        run = _unless_damaged(lambda: self._run(self._run_file(point)), damaged)
        outcome = _unless_damaged(lambda: self._outcome(sweep.folder(point) / "outcome.json"), damaged)
        job = _unless_damaged(lambda: self._lengths(sweep.job_file(point)), damaged)
        has_ended = run.get("state") in ENDED
        fate, reason = _fate(point, run, outcome, job_state, not has_ended and FolderLock.is_held(run_dir))
        reason = "; ".join(filter(None, (reason, *damaged)))
        if not reason and fate in (Fate.FAILED, Fate.LOST) and point.submissions:
            reason = self._last_line(sweep.log(point.submissions[-1]))
            if not reason and fate == Fate.LOST and not run:
                reason = NO_TRACE
        epochs = run["epochs"] if has_ended and "epochs" in run else self._epochs(run_dir / "metrics.jsonl")
        directory = run_dir if run or run_dir.is_dir() else None
        status = PointStatus(
            *(point, fate, reason, directory, epochs, job.get("max_epochs"), trackers_of(run)),
            pause_after=job.get("pause_after"),
        )
        if fate.is_final and not damaged:
            self._ended[point.run] = (stamp, status)
        return status

    def times(self, point: Point) -> ProcessTimes:
        """Return what the last process of a point wrote of its times; nothing of what is damaged."""
        run = _unless_damaged(lambda: self._run(self._run_file(point)), [])
        outcome = _unless_damaged(lambda: self._outcome(self._sweep.folder(point) / "outcome.json"), [])
        began_at = run.get("began_at") if run.get("state") == "running" else None
        return ProcessTimes(began_at, run.get("ended_at"), outcome.get("ended_at"))

    def _run_file(self, point: Point) -> Path:
        return self._sweep.runs / point.run / "status.json"


def sweep_status(sweep: Sweep, points: Iterable[Point] | None = None) -> list[PointStatus]:
    """Return the status of the points of a sweep (default: all); queries each runner once for all its jobs."""
    return StatusReader(sweep)(points)


def _lengths(path: Path) -> dict[str, Any]:
    """Return ``max_epochs`` of the run of a job file, and ``pause_after`` of its trial; raises `DamagedFileError`.

    A file that begins and ends as one does is not parsed, because a sweep may have ten thousand, and most of each is
    the rest of its configuration.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return {}
    found, pauses = _MAX_EPOCHS.findall(content), _PAUSE_AFTER.findall(content)
    if len(found) == 1 and len(pauses) <= 1 and content.startswith(b"{") and content.endswith(b"}\n"):
        pause_after = int(pauses[0]) if pauses and pauses[0] != b"null" else None
        return {"max_epochs": int(found[0]), "pause_after": pause_after}
    job = read_json(path, {"config": dict})
    return {key: value_at(job, place) for key, place in _LENGTHS.items()}


def _with_stand_ins(statuses: Sequence[PointStatus]) -> list[PointStatus]:
    """Return the status of all points of a sweep, with the numbers of those that run in place of others."""
    numbers = {status.point.run: status.point.number for status in statuses}
    stand_ins = {run: status.point.number for status in statuses for run in status.point.stands_for}
    if not stand_ins:
        return list(statuses)
    return [
        replace(
            status,
            stand_in=stand_ins.get(status.point.run) if status.fate.has_failed else None,
            stands_for=tuple(numbers[run] for run in status.point.stands_for if run in numbers),
        )
        for status in statuses
    ]


def refused_status(sweep: Sweep, points: Sequence[Point] | None = None) -> list[PointStatus]:
    """Return the status of the points that the last launch refused; points that ran before keep their own.

    Args:
        sweep: the sweep.
        points: all its points, if they have been read already.
    """
    try:
        problems = sweep.refused()
    except DamagedFileError as error:
        problems = {("unknown",): f"{error}; the command that launched the sweep writes it again"}
    known = (sweep.points() if points is None else points) if problems else []
    have_run = {point.overrides for point in known}
    first = max((point.number for point in known), default=-1) + 1
    problems = {overrides: why for overrides, why in problems.items() if overrides not in have_run}
    return [refused(first + index, overrides, why) for index, (overrides, why) in enumerate(problems.items())]


def refused(number: int, overrides: Sequence[str], problem: str) -> PointStatus:
    """Return the status of a point that cannot run."""
    return PointStatus(Point(number, "", tuple(overrides)), Fate.REFUSED, problem, None, 0, None)


def _job_states(submissions: Mapping[str, Submission]) -> dict[str, JobState]:
    states: dict[str, JobState] = {}
    for launcher in dict.fromkeys(submission.launcher for submission in submissions.values()):
        own = {run: submission for run, submission in submissions.items() if submission.launcher == launcher}
        states |= _answers(launcher, own)
    return states


def _answers(launcher: str, submissions: Mapping[str, Submission]) -> Mapping[str, JobState]:
    """Return the states that a runner reports; if it fails, the jobs may still exist and are ``unknown``."""
    try:
        runner = cast(type[Runner], lookup("runner", launcher).factory)
        return runner.states(submissions)
    except UserError as error:  # a plugin is not installed here
        reason = str(error)
    except Exception as error:  # noqa: BLE001 - a third-party runner must not end a launch of days
        reason = f"runner '{launcher}' does not answer: {type(error).__name__}: {error}"
    return dict.fromkeys(submissions, JobState(Fate.UNKNOWN, reason))


def _fate(
    point: Point,
    run: Mapping[str, Any],
    outcome: Mapping[str, Any],
    job: JobState | None,
    run_is_held: bool,
) -> tuple[Fate, str]:
    state, reason = run.get("state", "new"), str(run.get("reason", ""))
    if state in ENDED:
        return Fate(state), reason
    if job is not None and job.fate == Fate.UNKNOWN and not run_is_held:
        return job
    if job is not None and job.fate == Fate.PENDING:
        return job.fate, f"requeued after {reason}" if state == "interrupted" else job.reason
    if run_is_held or (job is not None and job.fate == Fate.RUNNING):
        return Fate.RUNNING, ""
    if job is not None and job.fate.has_failed:
        return job.fate, reason if state == "interrupted" else job.reason
    if reason == "out of memory":
        return Fate.OUT_OF_MEMORY, ""
    code = outcome.get("exit_code")
    if state == "paused" and code in (None, ExitCode.DONE):
        return Fate.PAUSED, reason
    if code == ExitCode.WRONG_INPUT or (state == "failed" and code != ExitCode.INTERRUPTED):
        return Fate.FAILED, reason if state == "failed" else ""
    if state == "interrupted" or code == ExitCode.INTERRUPTED:
        ran_out = reason.startswith(("SIGUSR2", "time limit"))
        return (Fate.TIMED_OUT if ran_out else Fate.INTERRUPTED), reason
    if not point.submissions:
        return (Fate.LOST if state == "running" else Fate.NOT_STARTED), ""
    return (Fate.LOST if code is None else Fate.FAILED), ""


def _unless_damaged(read: Callable[[], Mapping[str, Any]], damaged: list[str]) -> Mapping[str, Any]:
    """Return what ``read`` returns; empty if the file is damaged, with the damage added to ``damaged``."""
    try:
        return read()
    except DamagedFileError as error:
        damaged.append(str(error))
        return {}


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
