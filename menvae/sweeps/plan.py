"""Plan of a sweep: its points, duplicates among them, and the work left for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from menvae.composition.settings import SweepSettings
from menvae.console.listing import listing
from menvae.errors import FoldError, UserError
from menvae.files import DamagedFileError
from menvae.registry import known as known_parts
from menvae.runs.directory import ENDED, free_name, newest_names, read_status
from menvae.studies import Trial
from menvae.sweeps.runners import Fate
from menvae.sweeps.status import PointStatus, sweep_status
from menvae.sweeps.sweep import Point, Sweep

Identify = Callable[[Mapping[str, Any]], str]
"""Composed configuration -> name of its run; raises `UserError` for an invalid configuration."""


class ProvisionalName(str):
    """The name of a run whose cohort is not prepared: the hash lacks the data, so it only serves to find duplicates."""

    __slots__ = ()


@dataclass(frozen=True)
class PlannedPoint:
    """One job of a sweep before it runs.

    Attributes:
        overrides: overrides that distinguish it from other points.
        config: composed configuration, plain values.
        status: status of its point; None for points that cannot run, duplicates, and points that await data.
        problem: why the point cannot run, or empty.
        is_invalid: whether that is a fault of its configuration or data.
        duplicate_of: index of an earlier job with the same run, or None.
        other_code: whether a different version of the code finished the run.
        trial: trial of a study that the job carries out, or None.
        awaits_data: whether its run is unknown until the cohort is prepared.
    """

    overrides: tuple[str, ...]
    config: Mapping[str, Any]
    status: PointStatus | None = None
    problem: str = ""
    is_invalid: bool = False
    duplicate_of: int | None = None
    other_code: bool = False
    trial: Trial | None = None
    awaits_data: bool = False

    @property
    def is_to_do(self) -> bool:
        """Whether work is left, as far as known."""
        return self.awaits_data or (self.status is not None and not self.status.fate.is_final)


def plan_points(
    sweep: Sweep,
    jobs: Sequence[tuple[Sequence[str], Mapping[str, Any]]],
    identify: Identify,
    settings: SweepSettings,
    code_hash: Callable[[], str],
    runs: Sequence[str] = (),
    *,
    searching: bool = False,
) -> list[PlannedPoint]:
    """Return one planned point for every job.

    A failed point for which another one stands is planned as that one, with its configuration.

    Args:
        sweep: sweep of the jobs; nothing is written.
        jobs: (overrides, composed configuration) of each job.
        identify: returns the name of a run.
        settings: settings of the sweep, such as ``on_code_change``.
        code_hash: returns the hash of the current code; called only for finished runs.
        runs: names of the runs that these jobs should resume, if they were submitted before; with ``sweep.changes``, a
            job that is another run is a point that stands for that one.
        searching: whether the jobs are trials of a study, for which a pruned run counts as finished.

    Raises:
        FoldError: a point is a fold that does not exist.
    """
    planning = _Planning(sweep, identify, settings, code_hash, runs, searching)
    planned: list[PlannedPoint] = []
    points: dict[int, Point] = {}
    for overrides, config in jobs:
        one, point = planning.next(PlannedPoint(tuple(overrides), config))
        if point is not None:
            points[len(planned)] = point
        planned.append(one)
    if settings.changes:
        _replace_failed(runs, planned, points, planning.known)
    for index, status in zip(points, sweep_status(sweep, points.values()), strict=True):
        missing = status.fate == Fate.UNKNOWN and _missing_runner(status.point)
        planned[index] = replace(planned[index], **({"problem": missing} if missing else {"status": status}))
    return planned


class _Planning:
    """Finds the points of jobs, one after another; `plan_points` documents the arguments.

    Attributes:
        known: run -> point, of the whole sweep and of the jobs so far.
    """

    def __init__(
        self,
        sweep: Sweep,
        identify: Identify,
        settings: SweepSettings,
        code_hash: Callable[[], str],
        runs: Sequence[str],
        searching: bool,
    ) -> None:
        self._sweep, self._identify, self._settings, self._code_hash = sweep, identify, settings, code_hash
        self._runs, self._searching = runs, searching
        self.known = {point.run: point for point in sweep.points()}
        self._next_number = max((point.number for point in self.known.values()), default=-1) + 1
        self._newest = newest_names(sweep.runs)
        self._stand_ins = {} if runs else {run: point for point in self.known.values() for run in point.stands_for}
        self._num_jobs = 0
        self._taken: dict[str, int] = {}  # identity or run -> index of its first job

    def next(self, job: PlannedPoint) -> tuple[PlannedPoint, Point | None]:
        """Return the plan of the next job, and its point; None if it cannot run, is a duplicate or awaits data.

        Raises:
            FoldError: it is a fold that does not exist.
        """
        index = self._num_jobs
        self._num_jobs += 1
        try:
            identity = self._identify(job.config)
        except FoldError:
            raise
        except UserError as error:
            return replace(job, problem=str(error), is_invalid=True), None
        if identity in self._taken and job.config["trainer"].get("resume") != "never":
            return replace(job, duplicate_of=self._taken[identity]), None
        if isinstance(identity, ProvisionalName):
            self._taken[identity] = index
            return replace(job, awaits_data=True), None
        run, other_code = self._run_of(index, identity, job.config)
        if (stand_in := _stand_in(self._sweep, run, self._stand_ins)) is not None:
            run, other_code = stand_in.run, False
            job = _in_place(job, self._sweep, stand_in, self._taken)
            if job.problem or job.duplicate_of is not None:
                return job, None
        self._taken[identity] = self._taken[run] = index
        return replace(job, other_code=other_code), self._point(run, job.overrides)

    def _run_of(self, index: int, identity: str, config: Mapping[str, Any]) -> tuple[str, bool]:
        """Return the run of a job, and whether a different version of the code finished it."""
        if self._runs and self._runs[index].startswith(identity):
            return self._runs[index], False
        runs = self._sweep.runs
        if config["trainer"].get("resume") == "never":
            return free_name(runs, identity, self._taken), False
        newest = self._newest(identity)
        try:
            status = read_status(runs / newest)
        except DamagedFileError:  # the run itself reports it, and goes on from its checkpoint
            status = {}
        made_with = status.get("code") if status.get("state") == Fate.FINISHED else None
        other_code = made_with is not None and made_with != self._code_hash()
        if status.get("state") == "pruned" and not self._searching:
            return free_name(runs, identity, self._taken), False
        if other_code and self._settings.on_code_change == "rerun":
            return free_name(runs, identity, self._taken), False
        return newest, other_code

    def _point(self, run: str, overrides: tuple[str, ...]) -> Point:
        """Return the point of a run, a new one if the sweep has none or its file is damaged."""
        known = self.known.get(run)
        if known is None or known.damage:
            number = self._next_number if known is None else known.number
            self._next_number = max(self._next_number, number + 1)
            self.known[run] = known = Point(number, run, overrides)
        return known


def _stand_in(sweep: Sweep, run: str, stand_ins: Mapping[str, Point]) -> Point | None:
    """Return the point that stands for a run, unless that has ended after all; None without one."""
    found = None
    while run in stand_ins and not _has_ended(sweep.runs / run):
        found = stand_ins[run]
        run = found.run
    return found


def _has_ended(run_dir: Path) -> bool:
    try:
        return read_status(run_dir).get("state") in ENDED
    except DamagedFileError:
        return False


def _in_place(planned: PlannedPoint, sweep: Sweep, stand_in: Point, taken: Mapping[str, int]) -> PlannedPoint:
    """Return the plan of a job whose point another one stands for, which an earlier job may be already."""
    if stand_in.run in taken:
        return replace(planned, duplicate_of=taken[stand_in.run])
    try:
        return replace(planned, config=sweep.config(stand_in))
    except UserError as error:
        return replace(planned, problem=str(error))


def _replace_failed(
    runs: Sequence[str], planned: list[PlannedPoint], points: dict[int, Point], known: Mapping[str, Point]
) -> None:
    """Note in the points of changed jobs which failed points they stand for.

    Args:
        runs: the run of the failed point of each job.
        planned: the jobs; one that would stand for a point that stands for it cannot run.
        points: index of a job -> its point, without duplicates.
        known: run -> point, of all points of the sweep.
    """
    stand_ins = {run: point.run for point in known.values() for run in point.stands_for}
    for index, failed in enumerate(runs):
        duplicate_of = planned[index].duplicate_of
        first = index if duplicate_of is None else duplicate_of
        if first not in points or points[first].run == failed:
            continue
        if _leads_to(points[first].run, failed, stand_ins):
            number = points.pop(first).number
            why = f"with these values it is point {number}, which has failed before; give other values"
            planned[index] = replace(planned[index], problem=why, duplicate_of=None)
            continue
        stand_ins[failed] = points[first].run
        stands_for = dict.fromkeys([*points[first].stands_for, failed])
        points[first] = replace(points[first], stands_for=tuple(stands_for))


def _leads_to(run: str, other: str, stand_ins: Mapping[str, str]) -> bool:
    """Return whether another run stands for a run, directly or through further ones."""
    while run in stand_ins:
        run = stand_ins[run]
        if run == other:
            return True
    return False


def _missing_runner(point: Point) -> str:
    """Return why this process can neither wait for a point nor submit it again, or an empty string."""
    launcher = point.submissions[-1].launcher
    if launcher in known_parts("runner"):
        return ""
    return f"runner '{launcher}', which may still run it, is not installed; install its package to continue"


@dataclass(frozen=True)
class LossEffect:
    """Effect of the ``loss`` section of a configuration on a run.

    Attributes:
        weights: {scalar: its weight over the run}, without scalars whose weight is always 0.
        terms: keys of the terms that have a nonzero weight at any time.
    """

    weights: Mapping[str, tuple[float, ...]]
    terms: Set[str]


def dead_knobs(
    points: Sequence[Sequence[str]], effect_of: Callable[[int], LossEffect], keys: Sequence[str]
) -> list[str]:
    """Return the swept keys of the loss without effect, such as a weight whose schedule starts after the last epoch.

    A weight or schedule is dead if points that differ only in it have the same weights throughout; a tunable of a term
    is dead if the term never has a nonzero weight.

    Args:
        points: overrides of each point.
        effect_of: returns the effect of a point, given its position; asked until a key is known to have an effect.
        keys: the swept keys.
    """
    dead = []
    for key in keys:
        name = key.lstrip("+")
        if name.startswith("loss.terms."):
            is_dead = all(name.split(".")[2] not in effect_of(position).terms for position in range(len(points)))
        elif name.startswith(("loss.lambda_", "loss.schedules.", "schedule@loss.schedules.", "curriculum.")):
            compared = [group for group in _differing_in(key, points) if len(group) > 1]
            is_dead = bool(compared) and all(_have_equal_weights(group, effect_of) for group in compared)
        else:
            continue
        if is_dead:
            dead.append(key)
    return dead


def _have_equal_weights(positions: Sequence[int], effect_of: Callable[[int], LossEffect]) -> bool:
    weights = effect_of(positions[0]).weights
    return all(effect_of(position).weights == weights for position in positions[1:])


def _differing_in(key: str, points: Sequence[Sequence[str]]) -> list[list[int]]:
    """Return the positions of points that differ only in one key, group by group."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for position, overrides in enumerate(points):
        rest = tuple(override for override in overrides if override.partition("=")[0] != key)
        groups.setdefault(rest, []).append(position)
    return list(groups.values())


def plan_table(planned: Sequence[PlannedPoint]) -> RenderableType:
    """Return a table with one row per job: number, overrides, run, and planned action."""
    return listing(("", "point", "run", "plan"), [_row(index, point) for index, point in enumerate(planned)])


def _row(index: int, point: PlannedPoint) -> tuple[str, ...]:
    status = point.status
    if point.awaits_data:
        what = "run"
    elif status is None:
        what = point.problem or f"duplicate of {point.duplicate_of}"
    elif status.fate.is_final or status.fate.is_active:
        what = f"{status.fate}: nothing to do" if status.fate.is_final else str(status.fate)
    elif status.fate == Fate.PAUSED:
        what = "go on (paused)"
    else:
        what = "run" if status.fate == Fate.NOT_STARTED else f"run again ({status.fate})"
    if status is not None and status.point.stands_for and status.point.overrides != point.overrides:
        what += f"; point {status.point.number} stands for it"
    run = "" if status is None else status.point.run
    if point.awaits_data:
        run = "known once the cohort is prepared"
    return str(index), " ".join(point.overrides), run, what
