"""Stopping points of a sweep, or all of it: whatever runs writes its checkpoint, and can be resumed."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

from menvae.errors import UserError
from menvae.files import FolderLock
from menvae.interruption import terminate
from menvae.registry import lookup
from menvae.sweeps.runners import Fate, Runner
from menvae.sweeps.status import PointStatus, sweep_status
from menvae.sweeps.sweep import Point, Submission, Sweep
from menvae.sweeps.trials import journal

_log = logging.getLogger(__name__)

_STOPPABLE = (Fate.RUNNING, Fate.PENDING)
_HOLDER = re.compile(r"process (\d+) on (.+)")
_SECONDS_BETWEEN_LOOKS = 0.2
_SECONDS_TO_END = 120.0
"""For a launching process, which may give the processes of its points 90 s to write checkpoints."""


@dataclass(frozen=True)
class Launching:
    """The process that launches a sweep.

    Attributes:
        process: its id.
        host: name of its machine.
    """

    process: int
    host: str

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"


def launching(sweep: Sweep) -> Launching | None:
    """Return the process that launches points of a sweep, or searches with it, now; None if there is none."""
    for folder in (sweep.path, journal(sweep).parent):  # between its batches, a search holds only the second lock
        if found := _HOLDER.fullmatch(FolderLock.holder(folder)):
            return Launching(int(found[1]), found[2])
    return None


def stop_points(sweep: Sweep, points: Sequence[Point]) -> list[PointStatus]:
    """Ask the jobs of points to write their checkpoints and end; do not wait for that.

    Args:
        sweep: the sweep.
        points: points that run or wait in a queue.

    Returns:
        The status of each point before.

    Raises:
        UserError: a point neither runs nor waits, its job also runs others, or it is out of reach. Nothing is asked
            then, except in the last case.
    """
    statuses = sweep_status(sweep)
    names = {point.run for point in points}
    chosen = [status for status in statuses if status.point.run in names]
    for status in chosen:
        _check_stoppable(status)
    _check_alone(chosen, statuses)
    _cancel(sweep, chosen)
    return chosen


def stop_all(sweep: Sweep) -> list[PointStatus]:
    """End the process that launches a sweep, so that it starts no more points, and ask all jobs to end.

    Returns:
        The status of each point that was asked, before.

    Raises:
        UserError: the launching process is out of reach, and nothing is asked, or a job is.
    """
    before = [status for status in sweep_status(sweep) if status.fate in _STOPPABLE]
    if (process := launching(sweep)) is not None:
        _end_launch(sweep, process)
    left = [status for status in sweep_status(sweep) if status.fate in _STOPPABLE]
    if left:
        _cancel(sweep, left)
    for status in sweep_status(sweep):
        if status.fate == Fate.UNKNOWN:
            raise UserError(f"point {status.point.number} cannot be stopped: {status.reason}")
    return list({status.point.run: status for status in [*left, *before]}.values())


def _end_launch(sweep: Sweep, process: Launching) -> None:
    """End a launching process, and wait for that: it may be about to submit jobs; raises `UserError`."""
    here = os.uname().nodename
    if process.host != here:
        raise UserError(f"sweep '{sweep.name}' is being launched by {process}; stop it there, this is {here}")
    with suppress(ProcessLookupError):
        terminate(process.process)
    _log.info("waiting for %s, which launches the sweep, to end", process)
    until = time.monotonic() + _SECONDS_TO_END
    while launching(sweep) == process:
        if time.monotonic() >= until:
            raise UserError(f"{process}, which launches sweep '{sweep.name}', does not end; end it with kill -9")
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _check_stoppable(status: PointStatus) -> None:
    """Check that a point runs or waits in a queue; raises `UserError`."""
    number, fate = status.point.number, status.fate
    if fate in _STOPPABLE:
        return
    if fate == Fate.UNKNOWN:
        raise UserError(f"point {number} cannot be stopped: {status.reason}")
    if fate == Fate.NOT_STARTED:
        raise UserError(
            f"point {number} has not started; --all keeps it from that, and ends the process that launches the sweep"
        )
    raise UserError(f"point {number} is '{fate}'; only points that run or wait can be stopped")


def _check_alone(chosen: Sequence[PointStatus], statuses: Sequence[PointStatus]) -> None:
    """Check that no other points share the jobs of the chosen ones; raises `UserError`."""
    names = {status.point.run for status in chosen}
    jobs = {_job(status) for status in chosen if status.point.submissions}
    for status in statuses:
        is_other = status.point.run not in names and status.fate in _STOPPABLE and status.point.submissions
        if is_other and _job(status) in jobs:
            first = next(one for one in chosen if one.point.submissions and _job(one) == _job(status))
            raise UserError(
                f"point {first.point.number} shares job {_job(first)[1]} with point {status.point.number}, which would "
                "end too; name all points of a job"
            )


def _job(status: PointStatus) -> tuple[str, str]:
    last = status.point.submissions[-1]
    return last.launcher, last.job


def _cancel(sweep: Sweep, statuses: Sequence[PointStatus]) -> None:
    """Ask the jobs of points to end, each by its runner; raises `UserError` for the first that is out of reach."""
    last = {status.point.run: status.point.submissions[-1] for status in statuses if status.point.submissions}
    asked: set[str] = set()
    problem = ""
    for launcher in dict.fromkeys(submission.launcher for submission in last.values()):
        own = {run: submission for run, submission in last.items() if submission.launcher == launcher}
        try:
            asked |= _asked(launcher, own)
        except UserError as error:
            problem = problem or f"runner '{launcher}' cannot stop its jobs: {error}"
    if problem:
        raise UserError(problem)
    for status in statuses:
        if status.point.run not in asked and (holder := FolderLock.holder(sweep.runs / status.point.run)):
            raise UserError(f"point {status.point.number} is trained by {holder}, out of reach from here; end that")


def _asked(launcher: str, submissions: Mapping[str, Submission]) -> set[str]:
    runner = cast(type[Runner], lookup("runner", launcher).factory)
    return set(runner.cancel(submissions))
