"""Execution of a sweep: submit the unfinished points, wait until all have ended, report."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from menvae.console import logs
from menvae.errors import RunInterruptedError, UserError
from menvae.files import FolderIsLockedError, FolderLock, in_parallel
from menvae.interruption import StopRequest
from menvae.sweeps.plan import PlannedPoint
from menvae.sweeps.runners import Fate, Runner
from menvae.sweeps.status import PointStatus, StatusReader, refused
from menvae.sweeps.sweep import Point, Submission, Sweep, label_of
from menvae.sweeps.words import fate_counts, status_table
from menvae.tracking.local import LocalLog
from menvae.tracking.tracker import ParentRun, Status, TrackerContext, TrackingSettings
from menvae.tracking.trackers import Trackers

_log = logging.getLogger(__name__)

_LONGEST_PAUSE_S = 10.0  # between looks at thousands of points, which may take seconds; a request to stop waits for it


@dataclass(frozen=True)
class Campaign:
    """One launch of a sweep.

    Attributes:
        sweep: sweep on disk.
        runner: runner of the jobs.
        tracking: settings of trackers; the sweep gets its own run there, the parent of its points' runs.
        wait: whether to wait for the end of the jobs.
    """

    sweep: Sweep
    runner: Runner
    tracking: TrackingSettings
    wait: bool = True

    def carry_out(
        self, planned: Sequence[PlannedPoint], stop: StopRequest, tags: Mapping[str, str]
    ) -> list[PointStatus]:
        """Run the unfinished points.

        Args:
            planned: all points of this launch.
            stop: stop request, checked while waiting.
            tags: further tags of the sweep's run in trackers.

        Returns:
            The status of every point that can run; empty without ``wait``.

        Raises:
            UserError: another process is launching this sweep.
            RunInterruptedError: this process was asked to stop.
        """
        if all(point.problem for point in planned):
            _log_plan(planned, 0)
            return []
        self.sweep.path.mkdir(parents=True, exist_ok=True)
        try:
            lock = FolderLock(self.sweep.path)
        except FolderIsLockedError as error:
            raise UserError(f"sweep '{self.sweep.name}' is being launched by {error}; wait until it ends") from None
        try:
            statuses = [point.status for point in planned if point.status]
            is_tracked = all(self.tracking.active <= status.trackers for status in statuses)
            end = self._end(planned, statuses, tags)
            if is_tracked and end["state"] == "FINISHED" and end == self.sweep.tracked():
                return self._run(planned, stop)
            return self._run_tracked(planned, stop, tags)
        finally:
            lock.release()

    def _run_tracked(
        self, planned: Sequence[PlannedPoint], stop: StopRequest, tags: Mapping[str, str]
    ) -> list[PointStatus]:
        self.sweep.set_tracked({})
        trackers = self._trackers()
        trackers.start({}, {**ParentRun(self.sweep.path, self.sweep.name).tags, **tags}, LocalLog(self.sweep.path))
        state: Status = "KILLED"
        try:
            statuses = self._run(planned, stop)
            end = self._end(planned, statuses, tags)
            state = end["state"]
            return statuses
        finally:
            ends = self.wait or state == "KILLED"
            if ends and trackers.finish(state) >= self.tracking.active and state == "FINISHED":
                self.sweep.set_tracked(end)

    def _end(
        self, planned: Sequence[PlannedPoint], statuses: Sequence[PointStatus], tags: Mapping[str, str]
    ) -> dict[str, Any]:
        """Return what trackers receive at the end of a sweep with these points."""
        is_done = all(status.fate.rests for status in statuses) and not any(point.problem for point in planned)
        return end_of_sweep(is_done=is_done, trackers=self._trackers(), tags=tags)

    def _trackers(self) -> Trackers:
        """Return the trackers of the sweep's own run."""
        sweep = self.sweep
        return Trackers.of(
            TrackerContext(settings=self.tracking, output_dir=sweep.output_dir, run_dir=sweep.path, run_name=sweep.name)
        )

    def _run(self, planned: Sequence[PlannedPoint], stop: StopRequest) -> list[PointStatus]:
        statuses = {point.status.point.run: point.status for point in planned if point.status is not None}
        todo = {
            point.status.point.run: point
            for point in planned
            if point.status is not None and not point.status.fate.is_final and not point.status.fate.is_active
        }
        _log_plan(planned, len(todo))
        untracked = {
            status.point.run: point
            for point in planned
            if (status := point.status) is not None and status.fate.is_final and self.tracking.active - status.trackers
        }
        if untracked:
            _log.info("sending %d finished runs to trackers that lack them", len(untracked))
            todo |= untracked
        paths = in_parallel(lambda point: self.sweep.prepare(_point(point), point.config, point.trial), todo.values())
        jobs = dict(zip(todo, paths, strict=True))
        points = {run: status.point for run, status in statuses.items()}
        others = [points[run] for run in points.keys() - todo.keys()]  # finished points belong to the sweep too
        in_parallel(self.sweep.keep, [point for point in others if not self.sweep.has(point)])
        self._keep(points, self.runner.submit(jobs) if jobs else {})
        if not self.wait:
            _log.info("submitted; menvae-sweep status shows their state, the same command waits for them")
            return []
        statuses_at_end = self._wait(points, statuses, stop)
        _log_end([*statuses_at_end, *_refused(planned)])
        return statuses_at_end

    def _keep(self, points: dict[str, Point], submitted: Mapping[str, Submission]) -> None:
        kept = in_parallel(lambda run: self.sweep.submitted(points[run], submitted[run]), submitted)
        points.update({point.run: point for point in kept})

    def _wait(
        self, points: dict[str, Point], planned: Mapping[str, PointStatus], stop: StopRequest
    ) -> list[PointStatus]:
        """Wait until no point is active, log every change of state, and return the last states.

        Args:
            points: {run: point}; receives what is submitted.
            planned: {run: status} before the launch.
            stop: asks to stop.
        """
        before: dict[str, Fate] = {}
        lost_since: dict[str, float] = {}
        known = dict(planned)
        read = StatusReader(self.sweep)
        while True:
            if stop.reason:
                self.runner.stop()
                raise RunInterruptedError(stop.reason)
            self._keep(points, self.runner.advance())
            began = time.monotonic()
            known |= {status.point.run: status for status in read(_may_change(points, known))}
            statuses = [known[run] for run in points]
            now = time.monotonic()
            for status in statuses:
                run = status.point.run
                if _may_be_lost(status, planned[run]):
                    if now - lost_since.setdefault(run, now) < self.runner.lag_s:
                        continue
                else:
                    lost_since.pop(run, None)
                is_old = run not in before and status.fate.rests and status.epochs == planned[run].epochs
                if status.fate != before.get(run, Fate.NOT_STARTED) and not is_old:
                    _log.info("%s", _line(status))
                before[run] = status.fate
            settled = all(before.get(status.point.run) == status.fate for status in statuses)
            if settled and not self.runner.num_open and not any(status.fate.is_active for status in statuses):
                return statuses
            time.sleep(max(self.runner.poll_s, min(9 * (now - began), _LONGEST_PAUSE_S)))


def _may_change(points: Mapping[str, Point], known: Mapping[str, PointStatus]) -> list[Point]:
    """Return the points to look at again: neither those that have ended, nor those that wait for their first job."""
    return [
        point
        for run, point in points.items()
        if not known[run].fate.is_final and (point.submissions or known[run].fate.is_active)
    ]


def end_of_sweep(*, is_done: bool, trackers: Trackers, tags: Mapping[str, str]) -> dict[str, Any]:
    """Return what trackers receive at the end of a sweep, for ``tracked.json``.

    Args:
        is_done: whether all of its points have ended with a result.
        trackers: trackers of its own run.
        tags: tags of its own run, without those that every sweep has.
    """
    return {"state": "FINISHED" if is_done else "FAILED", "trackers": trackers.addresses, "tags": dict(tags)}


def _point(planned: PlannedPoint) -> Point:
    assert planned.status is not None
    return planned.status.point


def _may_be_lost(status: PointStatus, planned: PointStatus) -> bool:
    """Return whether a job is gone without a result, or a file system or a queue is late."""
    return status.fate == Fate.LOST or (status.fate == Fate.PAUSED and status.epochs == planned.epochs)


def _refused(planned: Sequence[PlannedPoint]) -> list[PointStatus]:
    return [refused(index, one.overrides, one.problem) for index, one in enumerate(planned) if one.problem]


def _log_plan(planned: Sequence[PlannedPoint], num_todo: int) -> None:
    fates = Counter(str(point.status.fate) for point in planned if point.status is not None)
    duplicates = sum(point.duplicate_of is not None for point in planned)
    problems = [point for point in planned if point.problem]
    counts = [f"{count} {fate}" for fate, count in fates.items()]
    counts += [f"{duplicates} duplicate{'s' * (duplicates > 1)}"] if duplicates else []
    counts += [f"{len(problems)} that cannot run"] if problems else []
    _log.info("%d point%s: %s; %d to run", len(planned), "s" * (len(planned) != 1), ", ".join(counts), num_todo)
    for point in problems:
        _log.error("%s: %s", label_of(point.overrides), point.problem)
    other_code = [point for point in planned if point.other_code]
    if other_code:
        _log.warning(
            "a different version of the code produced %d finished points; sweep.on_code_change=rerun runs them again",
            len(other_code),
        )


def _line(status: PointStatus) -> str:
    where = f" ({status.point.submissions[-1].job})" if status.point.submissions else ""
    reason = f": {status.reason}" if status.reason else ""
    return f"{status.point.label}: {status.fate}{where}{reason}"


def _log_end(statuses: Sequence[PointStatus]) -> None:
    _log.info("%s", fate_counts(statuses))
    if others := [status for status in statuses if status.fate not in (Fate.FINISHED, Fate.PAUSED)]:
        logs.show(status_table(others))
