"""A sweep at one moment, and the reader that takes one after another."""

from __future__ import annotations

import math
import re
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from menvae.errors import UserError
from menvae.files import DamagedFileError, read_json
from menvae.runs.reading import value_at
from menvae.sweeps.causes import cause_of
from menvae.sweeps.rereading import Appended, Remembered, stamp_of
from menvae.sweeps.runners import Fate
from menvae.sweeps.status import PointStatus, StatusReader, refused_status
from menvae.sweeps.stopping import launching
from menvae.sweeps.sweep import Sweep
from menvae.sweeps.trials import has_study
from menvae.sweeps.watch.forecast import Clock, all_left_s, left_s, with_epochs
from menvae.sweeps.watch.standings import Best, Standings

Kind = Literal["GPU", "CPU"]

_SECONDS_BETWEEN_QUESTIONS = 5.0
"""To runners: queues of clusters ask not to be asked each second."""
_SHARED = re.compile(r"\+{0,2}hydra\.launcher\.points_per_gpu=(\d+)")


@dataclass(frozen=True)
class Equipment:
    """What a run computes on, as its ``environment.json`` says.

    Attributes:
        kind: ``GPU`` or ``CPU``; None before it has begun.
        units: number of GPUs, or of threads.
        parent: directory of the run that it trains on, whose epochs its logs begin with; or None.
    """

    kind: Kind | None = None
    units: float = 0.0
    parent: Path | None = None


@dataclass(frozen=True)
class PointView:
    """A point as it is now.

    Attributes:
        status: its status.
        epoch_s: seconds of one of its epochs; None without epochs.
        left_s: seconds that it still needs, once it runs; None if that is over or unknown.
        failed_at: when it failed, in seconds since 1970; None if it has not.
    """

    status: PointStatus
    epoch_s: float | None = None
    left_s: float | None = None
    failed_at: float | None = None


@dataclass(frozen=True)
class Failures:
    """The points that have failed with one cause: how many, and the newest."""

    cause: str
    count: int
    newest: PointView


@dataclass(frozen=True)
class Snapshot:
    """A sweep at one moment.

    Attributes:
        sweep: the sweep.
        at: the moment, in seconds since 1970.
        points: all points, and those that cannot run.
        left_s: seconds until all that runs or waits is done; None if nobody knows.
        spent_h: hours of training and evaluation so far, by kind of equipment.
        to_come_h: hours that are left, likewise; None if nobody knows.
        failures: by cause, that of the newest failure first; without points that were stopped.
        best: the best finished points; None if none has a result.
        launched_by: the process that launches points now, or empty.
        searches: whether its points are trials of a study, of which nobody knows those to come.
    """

    sweep: Sweep
    at: float
    points: tuple[PointView, ...]
    left_s: float | None
    spent_h: Mapping[Kind, float]
    to_come_h: Mapping[Kind, float] | None
    failures: tuple[Failures, ...] = ()
    best: Best | None = None
    launched_by: str = ""
    searches: bool = False

    @property
    def statuses(self) -> list[PointStatus]:
        """The status of each point."""
        return [point.status for point in self.points]

    @property
    def running(self) -> list[PointView]:
        """The points that run."""
        return [point for point in self.points if point.status.fate == Fate.RUNNING]

    @property
    def is_over(self) -> bool:
        """Whether nothing runs, waits in a queue, or is about to be launched."""
        return not (self.launched_by or any(status.fate.is_active for status in self.statuses))

    @property
    def epochs(self) -> tuple[int, int]:
        """Number of finished epochs and of all, without those of points that others stand for or that cannot run.

        Of a point that pauses, the epochs after that do not count: nobody knows whether it goes on.
        """
        counted = [status for status in self.statuses if status.stand_in is None]
        done = sum(status.epochs for status in counted)
        return done, sum(
            status.epochs if status.fate.is_final else max(status.last_epoch or 0, status.epochs) for status in counted
        )


@dataclass(frozen=True)
class _Timed:
    """What is known of the time that a point takes."""

    clock: Clock = field(default_factory=Clock)
    equipment: Equipment = field(default_factory=Equipment)
    began_at: float | None = None  # its process that trains now
    before_s: float = 0.0  # in its clock, of the run that it trains on
    closing_s: float | None = None  # between its last epoch and its end


class Watcher:
    """Looks at a sweep again and again; what has not changed is not read again.

    Args:
        sweep: the sweep.
    """

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep
        self._read = StatusReader(sweep, ask_every_s=_SECONDS_BETWEEN_QUESTIONS)
        self._clock = Appended(Clock(), with_epochs)
        self._equipment = Remembered(_equipment)
        self._best = Standings(sweep)
        self._timed: dict[str, tuple[PointStatus, _Timed]] = {}
        self._failed_at: dict[str, tuple[PointStatus, float]] = {}
        self._num_sharing = _num_sharing(sweep)

    def look(self) -> Snapshot:
        """Return the sweep as it is now."""
        now, process = time.time(), launching(self._sweep)
        statuses = self._read()
        statuses += refused_status(self._sweep, [status.point for status in statuses])
        timed = [self._time(status) for status in statuses]
        views = self._views(statuses, timed, now)
        waits = _waiting(views, is_launched=process is not None)
        running = [view for view in views if view.status.fate == Fate.RUNNING]
        left = [[view.left_s for view in each] for each in (running, waits)]
        known = [[seconds for seconds in each if seconds is not None] for each in left]
        return Snapshot(
            self._sweep,
            now,
            tuple(views),
            all_left_s(*known) if known == left else None,
            self._spent_h(statuses, timed, now),
            self._to_come_h(views, timed, {view.status.point.run for view in (*running, *waits)}),
            _failures(views),
            self._best(statuses),
            "" if process is None else str(process),
            has_study(self._sweep),
        )

    def _views(self, statuses: Sequence[PointStatus], timed: Sequence[_Timed], now: float) -> list[PointView]:
        epochs_s = [one.clock.epoch_s for one in timed if one.clock.epoch_s is not None]
        typical_s = statistics.median(epochs_s) if epochs_s else None
        closings_s = [one.closing_s for one in timed if one.closing_s is not None]
        closing_s = statistics.median(closings_s) if closings_s else 0.0
        views = []
        for status, one in zip(statuses, timed, strict=True):
            left = None
            if is_to_come(status):
                since_s = _since_s(one, now) if status.fate == Fate.RUNNING else 0.0
                ends_s = closing_s if status.last_epoch == status.max_epochs else 0.0
                left = left_s(one.clock, status.last_epoch, typical_s, ends_s, since_s)
            views.append(PointView(status, one.clock.epoch_s, left, self._failure(status)))
        return views

    def _time(self, status: PointStatus) -> _Timed:
        """Return what is known of the time of a point; of one that has ended, what was known then."""
        if status.run_dir is None:
            return _Timed()
        known = self._timed.get(status.point.run)
        if known is not None and known[0] == status:
            return known[1]
        clock = self._clock(status.run_dir / "timings.jsonl")
        equipment = self._equipment(status.run_dir / "environment.json")
        before_s = self._clock(equipment.parent / "timings.jsonl").seconds if equipment.parent is not None else 0.0
        times = self._read.times(status.point)
        closing_s = None
        if status.fate == Fate.FINISHED and times.ended_at is not None and clock.last_at is not None:
            closing_s = max(0.0, times.ended_at - clock.last_at)
        timed = _Timed(clock, equipment, times.began_at, before_s, closing_s)
        if status.fate.is_final:
            self._timed[status.point.run] = status, timed
        return timed

    def _failure(self, status: PointStatus) -> float | None:
        """Return when a point failed, or was last known to be at work; None if it has not failed."""
        if not status.has_failed:
            return None
        known = self._failed_at.get(status.point.run)
        if status.point.run and known is not None and known[0] == status:
            return known[1]
        self._failed_at[status.point.run] = status, self._last_known(status)
        return self._failed_at[status.point.run][1]

    def _last_known(self, status: PointStatus) -> float:
        """Return the newest time that is known of a point; 0 without one.

        A process that was killed has left none of its end. Only if it has left none at all, the time of the file of its
        log counts, which a copy may have changed.
        """
        point = status.point
        if not point.run:  # it cannot run
            return self._sweep.refused_at() or 0.0
        times = self._read.times(point)
        last_at = self._clock(self._sweep.runs / point.run / "timings.jsonl").last_at
        known = [at for at in (times.began_at, times.ended_at, times.left_at, last_at) if at is not None]
        if point.submissions:
            submitted = _seconds(point.submissions[-1].time)
            log = stamp_of(self._sweep.log(point.submissions[-1])) if max(known, default=0.0) < submitted else None
            known += [submitted, *([] if log is None else [log[2] / 1e9])]
        return max(known, default=0.0)

    def _spent_h(self, statuses: Sequence[PointStatus], timed: Sequence[_Timed], now: float) -> dict[Kind, float]:
        hours: dict[Kind, float] = {}
        for status, one in zip(statuses, timed, strict=True):
            kind = one.equipment.kind
            if kind is None:
                continue
            seconds = max(0.0, one.clock.seconds - one.before_s) + (one.closing_s or 0.0)
            seconds += _since_s(one, now) if status.fate == Fate.RUNNING else 0.0
            hours[kind] = hours.get(kind, 0.0) + seconds * self._units(one.equipment) / 3600
        return hours

    def _to_come_h(
        self, views: Sequence[PointView], timed: Sequence[_Timed], counted: set[str]
    ) -> dict[Kind, float] | None:
        """Return the hours that points will take; one that has not begun counts like most of the others."""
        usual = Counter((one.equipment.kind, self._units(one.equipment)) for one in timed if one.equipment.kind)
        hours: dict[Kind, float] = {}
        for view, one in zip(views, timed, strict=True):
            if view.status.point.run not in counted:
                continue
            if view.left_s is None or not usual:
                return None
            kind, units = one.equipment.kind, self._units(one.equipment)
            if kind is None:
                kind, units = usual.most_common(1)[0][0]
            assert kind is not None
            hours[kind] = hours.get(kind, 0.0) + view.left_s * units / 3600
        return hours

    def _units(self, equipment: Equipment) -> float:
        return equipment.units / (self._num_sharing if equipment.kind == "GPU" else 1)


def _since_s(timed: _Timed, now: float) -> float:
    """Return the seconds since the last epoch of a running point ended, or since its process began; 0 if unknown."""
    return 0.0 if timed.began_at is None else max(0.0, now - max(timed.clock.last_at or 0.0, timed.began_at))


def _waiting(views: Sequence[PointView], *, is_launched: bool) -> list[PointView]:
    """Return the points that will run without further action."""
    fates = {Fate.PENDING, Fate.NOT_STARTED} if is_launched else {Fate.PENDING}
    return [view for view in views if view.status.fate in fates or (is_launched and view.status.goes_on)]


def is_to_come(status: PointStatus) -> bool:
    """Return whether a point has work left, as far as known."""
    return status.goes_on or not (status.fate.rests or status.fate.has_failed)


def _failures(views: Sequence[PointView]) -> tuple[Failures, ...]:
    by_cause: dict[str, list[PointView]] = {}
    for view in views:
        if view.status.has_failed and not view.status.is_stopped:
            by_cause.setdefault(cause_of(view.status), []).append(view)
    found = [Failures(cause, len(failed), max(failed, key=_when)) for cause, failed in by_cause.items()]
    return tuple(sorted(found, key=lambda one: _when(one.newest), reverse=True))


def _when(view: PointView) -> float:
    return view.failed_at or 0.0


def _equipment(path: Path) -> Equipment:
    """Return what ``environment.json`` says; nothing if it is damaged or missing."""
    try:
        content: dict[str, Any] = read_json(path, {})
    except (DamagedFileError, OSError):
        return Equipment()
    device = content.get("device")
    if not isinstance(device, str):
        return Equipment()
    is_gpu = device.startswith("cuda")
    keys = ("num_ranks",) if is_gpu else ("num_ranks", "num_threads")
    units = math.prod(count for key in keys if isinstance(count := content.get(key), int))
    return Equipment("GPU" if is_gpu else "CPU", float(units), _parent(value_at(content, "extends.path"), path.parent))


def _parent(written: object, run_dir: Path) -> Path | None:
    """Return the run that another one trains on; beside it, if both were moved since."""
    if not isinstance(written, str):
        return None
    parent = Path(written)
    return parent if parent.is_dir() else run_dir.parent / parent.name


def _num_sharing(sweep: Sweep) -> int:
    """Return how many points share a GPU: as resolved, or in files of earlier versions as typed."""
    try:
        about = sweep.description()
    except UserError:  # it is damaged
        return 1
    texts = [*about["launcher"], *about["resolved"]]
    numbers = [int(found[1]) for text in texts if (found := _SHARED.fullmatch(text))]
    return max(1, numbers[-1]) if numbers else 1


def _seconds(time_of_submission: str) -> float:
    try:
        return datetime.fromisoformat(time_of_submission).timestamp()
    except ValueError:
        return 0.0
