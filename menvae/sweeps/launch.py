"""The composition root of sweeps: turns composed jobs into points, and runs them with a launcher's runner."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from menvae.composition.experiment import Experiment
from menvae.composition.settings import SweepSettings
from menvae.configuration import check_folder_name, path_of
from menvae.console import logs
from menvae.errors import ExitCode, UserError
from menvae.files import DamagedFileError
from menvae.interruption import StopRequest, stop_requests
from menvae.presentation.text import duration
from menvae.registry import validated
from menvae.runs.environment import code_hash
from menvae.runs.identity import is_outside, outside_keys
from menvae.runs.parent import EXTEND
from menvae.studies import Trial
from menvae.sweeps.campaign import Campaign
from menvae.sweeps.causes import of_cause
from menvae.sweeps.changes import overrides_with, with_changes
from menvae.sweeps.identifier import Identifier
from menvae.sweeps.plan import LossEffect, PlannedPoint, dead_knobs, plan_points, plan_table
from menvae.sweeps.runners import Fate, Runner
from menvae.sweeps.status import PointStatus, refused_status, sweep_status
from menvae.sweeps.sweep import SWEEPS, Point, Sweep, key_of, label_of, sweep_name
from menvae.sweeps.trials import RetriedTrials, has_study, locked
from menvae.tracking.tracker import TrackingSettings
from menvae.tracking.trackers import bind_trackers

_log = logging.getLogger(__name__)

_MOST_CHARACTERS = 5000
"""Of a tag; MLflow allows 5000 or 8000."""

_OF_EFFECT = ("loss", "curriculum", "model", "data")
"""Sections that decide, with ``trainer.max_epochs``, what weights and terms a run has."""

Composed = tuple[Sequence[str], Mapping[str, Any]]
"""Overrides of a point, and its composed configuration."""


@dataclass(frozen=True)
class Result:
    """Result of one job of a launch.

    Attributes:
        exit_code: exit code as if the job had run in this process.
        status: status of its point; None if it cannot run.
        problem: why it cannot run, or empty.
    """

    exit_code: int
    status: PointStatus | None
    problem: str = ""


@dataclass(frozen=True)
class Command:
    """The command line of a sweep.

    Attributes:
        swept: {key: its values}.
        fixed: the other overrides, which all points share.
        launcher: overrides of the launcher.
    """

    swept: Mapping[str, str]
    fixed: Sequence[str]
    launcher: Sequence[str]


def sweep_of(config: Mapping[str, Any], typed: Command) -> Sweep:
    """Return the sweep of a command line.

    Args:
        config: composed configuration of one of its points.
        typed: the command line.

    Raises:
        UserError: the settings of the sweep are invalid, or a name cannot be that of a folder.
    """
    settings = sweep_settings(config)
    check_folder_name("name", config["name"])
    if settings.name is not None:
        check_folder_name("sweep.name", settings.name)
    outside = outside_keys(config["data"]["name"])
    identifying = [text for text in typed.fixed if _key_of(text) == EXTEND or not is_outside(_key_of(text), outside)]
    identifying += [f"{metric} {direction}" for metric, direction in settings.objectives.items()]
    identifying += [f"passes {gate}" for gate in settings.constraints]
    name = settings.name or sweep_name(config["name"], list(typed.swept), identifying)
    return Sweep(path_of(config["output_dir"], "output_dir").resolve() / SWEEPS / name)


def _key_of(override: str) -> str:
    """Return the key that an override sets, without the group of an option.

    >>> _key_of("+tracker@tracking.trackers.files=files"), _key_of("seed=1")
    ('tracking.trackers.files', 'seed')
    """
    return key_of(override).rpartition("@")[2]


def launch_points(
    jobs: Sequence[Composed],
    typed: Command,
    runner: Runner,
    trials: Sequence[Trial] = (),
    *,
    goes_on: bool = False,
) -> list[Result]:
    """Run, plan or retry points of a sweep, as ``sweep.action`` says.

    Args:
        jobs: the points; ``retry`` uses the failed points of the whole sweep instead.
        typed: the command line.
        runner: runner of the jobs.
        trials: trials of a study, one per job, or empty; with trials, the launch always waits for the jobs.
        goes_on: whether the command has launched other points before, as it does in batches.

    Returns:
        One result per job, in order. For a plan, and without waiting, only the results of jobs that cannot run.

    Raises:
        UserError: the settings of the sweep are invalid, or another process is launching it.
        RunInterruptedError: this process was asked to stop.
    """
    logs.configure(None)
    settings = sweep_settings(jobs[0][1])
    tracking = _tracking(jobs)  # before anything is written
    wait = runner.wait or bool(trials)
    identifier = Identifier(runner.num_ranks, prepares=settings.action != "plan" or settings.cost)
    launch = _Launch(sweep_of(jobs[0][1], typed), settings, typed, identifier, runner, wait)
    with stop_requests() as stop:
        _log.info("sweep %s", launch.sweep.path)
        match settings.action:
            case "plan":
                return launch.plan(_own(jobs, typed.fixed), searching=bool(trials))
            case "retry":
                return launch.retry(stop)
            case "run":
                return launch.run(_own(jobs, typed.fixed), trials, tracking, stop, goes_on=goes_on or bool(trials))


@dataclass(frozen=True)
class _Launch:
    """One launch of a sweep; `launch_points` documents the arguments."""

    sweep: Sweep
    settings: SweepSettings
    typed: Command
    identifier: Identifier
    runner: Runner
    wait: bool

    def plan(self, jobs: Sequence[Composed], *, searching: bool) -> list[Result]:
        """Show what `run` would do."""
        planned = self._planned(jobs, searching=searching)
        _refuse_what_all_share(planned)
        _show_plan(planned, list(self.typed.swept), self.identifier, cost=self.settings.cost)
        return _impossible(planned)

    def run(
        self,
        jobs: Sequence[Composed],
        trials: Sequence[Trial],
        tracking: TrackingSettings,
        stop: StopRequest,
        *,
        goes_on: bool,
    ) -> list[Result]:
        """Run the unfinished points."""
        planned = self._planned(jobs, searching=bool(trials))
        if not goes_on:
            _refuse_what_all_share(planned)
        if trials:
            planned = [replace(point, trial=trial) for point, trial in zip(planned, trials, strict=True)]
        self._prepare(planned)
        swept = [f"{key}={values}" for key, values in self.typed.swept.items()]
        sharing = f"hydra.launcher.points_per_gpu={self.runner.points_per_gpu}"
        self.sweep.describe([*self.typed.fixed, *swept], self.typed.launcher, [sharing])
        before = self._refused_before(planned) if goes_on else {}
        self.sweep.refuse(before | {point.overrides: point.problem for point in planned if point.problem})
        return self._carry_out(planned, tracking, stop)

    def retry(self, stop: StopRequest) -> list[Result]:
        """Run the failed points of the sweep again as they were, or those of one cause with other values of keys."""
        cause, changes = self.settings.cause, self.settings.changes
        failed = [status for status in sweep_status(self.sweep) if status.has_failed]
        failed = failed if cause is None else of_cause(failed, cause)
        impossible = refused_status(self.sweep) if cause is None else []
        for status in impossible:
            _log.error("%s: %s; retry cannot run it", status.point.label, status.reason)
        refused = [Result(ExitCode.WRONG_INPUT, None, status.reason) for status in impossible]
        if not failed:
            with_cause = f" with the cause {cause}" if cause is not None else ""
            _log.info("nothing to retry: no %spoint of this sweep has failed%s", "other " * bool(refused), with_cause)
            return refused
        points = [status.point for status in failed]
        jobs = [
            (overrides_with(point.overrides, changes), with_changes(self.sweep.config(point), changes))
            for point in points
        ]
        planned = self._planned(jobs, [point.run for point in points])
        if changes:
            _refuse_what_all_share(planned)
        _log_stand_ins(planned, points)
        self._prepare(planned)
        if not has_study(self.sweep):
            return [*self._carry_out(planned, _tracking(jobs), stop), *refused]
        with locked(self.sweep):
            retried = RetriedTrials(
                self.sweep, points, [_overrides_of(planned, index) for index in range(len(planned))]
            )
            planned = [replace(each, trial=trial) for each, trial in zip(planned, retried.trials, strict=True)]
            results = self._carry_out(planned, _tracking(jobs), stop)
            if self.wait:
                retried.tell([result.status for result in results], sweep_settings(jobs[0][1]))
            return [*results, *refused]

    def _refused_before(self, planned: Sequence[PlannedPoint]) -> dict[tuple[str, ...], str]:
        """Return what earlier launches refused, without the points of this one."""
        now = {point.overrides for point in planned}
        try:
            return {overrides: problem for overrides, problem in self.sweep.refused().items() if overrides not in now}
        except DamagedFileError:  # it is written anew
            return {}

    def _planned(
        self, jobs: Sequence[Composed], runs: Sequence[str] = (), *, searching: bool = False
    ) -> list[PlannedPoint]:
        planned = plan_points(self.sweep, jobs, self.identifier, self.settings, code_hash, runs, searching=searching)
        _log_duplicates(planned)
        return planned

    def _prepare(self, planned: Sequence[PlannedPoint]) -> None:
        """Prepare the runner with the configuration of the first point that can run; others may be invalid."""
        possible = [point.config for point in planned if not point.problem]
        if possible:
            self.runner.prepare(self.sweep.path, possible[0])

    def _carry_out(
        self, planned: Sequence[PlannedPoint], tracking: TrackingSettings, stop: StopRequest
    ) -> list[Result]:
        tags = {f"menvae.sweep.{key}": _shortened(values) for key, values in self.typed.swept.items()}
        with stop.deferred():
            statuses = Campaign(self.sweep, self.runner, tracking, self.wait).carry_out(planned, stop, tags)
        by_run = {status.point.run: status for status in statuses}
        return [_result(planned, index, by_run) for index in range(len(planned))] if self.wait else _impossible(planned)


def _shortened(values: str) -> str:
    """Return the values of a swept key, the first of them if trackers would refuse so long a text."""
    return values if len(values) <= _MOST_CHARACTERS else f"{values[: _MOST_CHARACTERS - 3]}..."


def sweep_settings(config: Mapping[str, Any]) -> SweepSettings:
    """Return the settings of a sweep, with defaults for keys that an override has removed; raises `UserError`."""
    return validated(SweepSettings, config["sweep"], "sweep")


def _tracking(jobs: Sequence[Composed]) -> TrackingSettings:
    """Return the tracking settings, which all points of a sweep share; raises `UserError`."""
    settings = validated(TrackingSettings, jobs[0][1]["tracking"], "tracking")
    bind_trackers(settings)
    return settings


def _refuse_what_all_share(planned: Sequence[PlannedPoint]) -> None:
    """Raise `UserError` if all points are invalid for one reason: what is wrong is the command, not one of them."""
    problems = {point.problem if point.is_invalid else "" for point in planned}
    if len(problems) == 1 and (problem := problems.pop()):
        raise UserError(problem)


def _impossible(planned: Sequence[PlannedPoint]) -> list[Result]:
    return [Result(ExitCode.WRONG_INPUT, None, point.problem) for point in planned if point.problem]


def _result(planned: Sequence[PlannedPoint], index: int, by_run: Mapping[str, PointStatus]) -> Result:
    point = planned[index]
    if point.duplicate_of is not None:
        return _result(planned, point.duplicate_of, by_run)
    if point.status is None:
        return Result(ExitCode.WRONG_INPUT, None, point.problem)
    status = by_run[point.status.point.run]
    codes = dict.fromkeys((Fate.FINISHED, Fate.PRUNED, Fate.PAUSED), ExitCode.DONE)
    codes[Fate.COLLAPSED] = ExitCode.COLLAPSED
    if point.trial is not None:  # for a search, a collapsed run is a valid result
        codes[Fate.COLLAPSED] = ExitCode.DONE
    return Result(codes.get(status.fate, 1), status)


def _own(jobs: Sequence[Composed], fixed: Sequence[str]) -> list[Composed]:
    """Return the jobs with only the overrides that distinguish them, and with absolute output directories."""
    shared = {text.partition("=")[0] for text in fixed}
    return [
        (
            [text for text in overrides if text.partition("=")[0] not in shared],
            {**config, "output_dir": str(path_of(config["output_dir"], "output_dir").resolve())},
        )
        for overrides, config in jobs
    ]


def _overrides_of(planned: Sequence[PlannedPoint], index: int) -> tuple[str, ...]:
    """Return the overrides of the point that carries out a job."""
    duplicate_of = planned[index].duplicate_of
    point = planned[index if duplicate_of is None else duplicate_of]
    return point.overrides if point.status is None else point.status.point.overrides


def _log_stand_ins(planned: Sequence[PlannedPoint], failed: Sequence[Point]) -> None:
    """Report points that run in place of failed ones."""
    numbers = {point.run: point.number for point in failed}
    for point in planned:
        stands_for = () if point.status is None else point.status.point.stands_for
        if point.status is not None and (own := [str(numbers[run]) for run in stands_for if run in numbers]):
            number, label = point.status.point.number, point.status.point.label
            _log.info("point %d, %s, stands for %s", number, label, " and ".join(own))


def _log_duplicates(planned: Sequence[PlannedPoint]) -> None:
    """Report points whose configurations mean the same run as those of earlier points."""
    same = [(point, planned[point.duplicate_of]) for point in planned if point.duplicate_of is not None]
    if same:
        point, first = (label_of(each.overrides) for each in same[0])
        what = "appears twice" if point == first else f"is the run of '{first}'"
        _log.info("%d of %d points are dropped: '%s' %s", len(same), len(planned), point, what)


def _show_plan(
    planned: Sequence[PlannedPoint], keys: Sequence[str], identifier: Identifier, *, cost: bool = False
) -> None:
    possible = [point for point in planned if not point.problem]
    logs.show(plan_table(planned))
    for key in dead_knobs([point.overrides for point in possible], _effects(possible, identifier), keys):
        _log.warning("%s has no effect: the loss is the same for all of its values", key)
    todo = [point for point in possible if point.is_to_do]
    if not todo:
        return
    if not cost:
        _log.info("%d of %d points to run; sweep.cost=true estimates how long they take", len(todo), len(planned))
        return
    from menvae.runs.assembly import seconds_per_step  # a plan without cost does not import training code

    experiment = identifier.experiment(todo[0].config)
    data = identifier.data(experiment)
    assert data is not None  # a plan with cost prepares missing data
    step_s = seconds_per_step(experiment, data)
    epochs = [identifier.experiment(point.config).settings["trainer"].max_epochs for point in todo]
    steps = [data.train.steps_per_epoch * num for num in epochs]
    _log.info(
        "%d of %d points to run: about %s on this machine, one at a time (%.3g s per step, %d steps; excludes "
        "validation and evaluation)",
        *(len(todo), len(planned), duration(step_s * sum(steps)), step_s, sum(steps)),
    )


def _effects(points: Sequence[PlannedPoint], identifier: Identifier) -> Callable[[int], LossEffect]:
    """Return the function position -> effect of a point; some thousand points have few different losses."""

    @lru_cache(maxsize=1024)
    def of_text(text: str) -> LossEffect:
        return loss_effect(identifier.experiment(examples[text]))

    examples: dict[str, Mapping[str, Any]] = {}

    def effect(position: int) -> LossEffect:
        config = points[position].config
        text = repr([config.get(key) for key in _OF_EFFECT] + [config["trainer"].get("max_epochs")])
        examples.setdefault(text, config)
        return of_text(text)

    return effect


def loss_effect(experiment: Experiment) -> LossEffect:
    """Return the weights and terms that the ``loss`` section of a configuration gives its run."""
    objective = experiment.build_objective(num_training_subjects=1)
    weights = {name: tuple(curve) for name, curve in objective.weight_curves(experiment.positions(201)).items()}
    active = {key: [s for s in term.scalars if any(weights.get(s, ()))] for key, term in objective.active_terms.items()}
    return LossEffect(
        {name: curve for name, curve in weights.items() if any(curve)}, {key for key in active if active[key]}
    )
