"""Trials of a study, and the points of a sweep that carry them out.

Optuna never changes a trial that has ended. A failed trial that is run again therefore becomes a new trial with the
same values, as in Optuna's `RetryFailedTrialCallback`, and the failed one no longer counts.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from menvae.composition.settings import SweepSettings
from menvae.console import logs
from menvae.errors import UserError
from menvae.files import FolderIsLockedError, FolderLock
from menvae.runs.job import Job
from menvae.studies import Trial, objective_values, open_storage, violations, words_of
from menvae.sweeps.runners import Fate
from menvae.sweeps.status import PointStatus
from menvae.sweeps.sweep import Point, Sweep

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

OVERRIDES = "overrides"
"""User attribute of a trial: its overrides."""

PASSED = "passed_rung"
"""User attribute of a trial that pauses: the last rung after which it went on; see `menvae.sweeps.halving`."""

_AGAIN = "retry_of"
"""User attribute of a trial that runs a failed one again: the number of the failed one."""

_UNDEFINED = "undefined"
"""User attribute of a study: the trials whose runs finished with an objective that has no value."""

_log = logging.getLogger(__name__)


def journal(sweep: Sweep) -> Path:
    """Return the path of the journal of a study that is not in a database."""
    return sweep.path / "study" / "journal.log"


def has_study(sweep: Sweep) -> bool:
    """Return whether points of a sweep were trials of a study."""
    return journal(sweep).parent.is_dir()


@contextmanager
def locked(sweep: Sweep) -> Iterator[None]:
    """Hold the lock of the study of a sweep; raises `UserError` if another process holds it."""
    folder = journal(sweep).parent
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FolderLock(folder)
    except FolderIsLockedError as error:
        raise UserError(f"sweep '{sweep.name}' is being searched by {error}; wait until it ends") from None
    try:
        yield
    finally:
        lock.release()


def trials_of(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that count: not those run again as another trial, nor those without stored overrides."""
    trials = study.get_trials(deepcopy=False)
    replaced = {trial.user_attrs.get(_AGAIN) for trial in trials}
    return [trial for trial in trials if trial.number not in replaced and OVERRIDES in trial.user_attrs]


def failed_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that count as failed, and that may succeed if run again."""
    undefined = study.user_attrs.get(_UNDEFINED, [])
    return [trial for trial in trials_of(study) if trial.state.name == "FAIL" and trial.number not in undefined]


def begin_again(study: optuna.Study, trial: FrozenTrial, overrides: Sequence[str] | None = None) -> int:
    """Add a running trial with the values of a failed one, and return its number.

    Args:
        study: the study.
        trial: the failed trial.
        overrides: overrides of the point that carries it out; None: those of the failed one.
    """
    import optuna

    attributes = {OVERRIDES: list(overrides or trial.user_attrs[OVERRIDES])}
    if PASSED in trial.user_attrs and attributes[OVERRIDES] == trial.user_attrs[OVERRIDES]:  # another run begins anew
        attributes[PASSED] = trial.user_attrs[PASSED]
    study.add_trial(
        optuna.trial.create_trial(
            state=optuna.trial.TrialState.RUNNING,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs=attributes | {_AGAIN: trial.number},
        )
    )
    return study.get_trials(deepcopy=False)[-1].number


def reporting(study: optuna.Study, number: int) -> optuna.trial.Trial:
    """Return a running trial to report to, unseen by the sampler, which takes each trial that it sees for a new one."""
    import optuna

    storage, trial = study._storage, study.get_trials(deepcopy=False)[number]
    same = optuna.load_study(study_name=study.study_name, storage=storage, sampler=optuna.samplers.RandomSampler())
    return optuna.trial.Trial(same, trial._trial_id)


def raise_unless_known(study: optuna.Study, error: UserError) -> None:
    """Raise an error about an objective that a run lacks; only log it if a trial has shown that other runs have it."""
    import optuna

    if not study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,)):
        raise error
    _log.error("%s", error)


def tell(
    study: optuna.Study,
    number: int,
    status: PointStatus | None,
    metrics: Sequence[str],
    constraints: Sequence[str] = (),
) -> None:
    """Tell a study how the point of a trial ended; a trial whose run is paused stays running.

    Args:
        study: the study.
        number: number of the trial, which is running.
        status: status of its point; None if it cannot run.
        metrics: the objectives.
        constraints: gates that its run has to pass.

    Raises:
        UserError: the run lacks an objective or a gate, and no trial has shown that other runs have it; the trial stays
            running.
    """
    import optuna

    state = optuna.trial.TrialState
    if status is not None and status.fate == Fate.PAUSED:
        return
    if status is not None and status.run_dir is not None and status.fate == Fate.FINISHED:
        try:
            values = objective_values(status.run_dir, metrics)
            missed = violations(status.run_dir, constraints)
        except UserError as error:
            raise_unless_known(study, error)
            values = None
        if values is not None:
            if constraints:
                trial = reporting(study, number)
                for name in missed.keys() - trial.constraints.keys():  # a killed process may have set some
                    trial.set_constraint(name, missed[name])
            study.tell(number, values)
            return
        study.set_user_attr(_UNDEFINED, [*study.user_attrs.get(_UNDEFINED, []), number])
    pruned = status is not None and status.fate in (Fate.PRUNED, Fate.COLLAPSED)
    study.tell(number, state=state.PRUNED if pruned else state.FAIL)


def has_failed(study: optuna.Study) -> bool:
    """Return whether a trial may succeed if run again, or no trial has a result."""
    results = {trial.state.name for trial in trials_of(study)} & {"COMPLETE", "PRUNED"}
    return bool(failed_trials(study)) or not results


def study_of(sweep: Sweep) -> optuna.Study | None:
    """Return the study of a sweep to read from; None if it has none, or one in a database that does not answer."""
    if not has_study(sweep):
        return None
    import optuna

    try:
        storage = _storage_of(sweep)
        return None if storage is None else optuna.load_study(study_name=sweep.name, storage=open_storage(storage))
    except KeyError:  # the search was killed before it made one
        return None
    except Exception as error:  # noqa: BLE001 - a database that is away must not hide the state of the points
        _log.warning("the study of sweep '%s' cannot be read: %s: %s", sweep.name, type(error).__name__, error)
        return None


def _storage_of(sweep: Sweep) -> str | None:
    """Return the storage of the study of a sweep, as `open_storage` takes it; None if nothing is stored yet."""
    if journal(sweep).is_file():
        return str(journal(sweep))
    for point in sweep.points():
        try:
            trial = Job.read(sweep.job_file(point)).trial
        except UserError:  # the state of the points tells
            continue
        if trial is not None and "://" in trial.storage:
            return trial.storage
    return None


def show(study: optuna.Study) -> None:
    """Print how many trials ended how, and the best trial or the Pareto front, of what passes its constraints."""
    objectives: Mapping[str, str] = study.user_attrs.get("objectives", {})
    constraints: Sequence[str] = study.user_attrs.get("constraints", ())
    counts = Counter(trial.state.name.lower() for trial in trials_of(study))
    logs.show(f"study {study.study_name}: " + ", ".join(f"{count} {state}" for state, count in counts.items()))
    if failed := failed_trials(study):
        _log.warning("%d of the trials failed; the same command runs them again", len(failed))
    if not counts["complete"]:
        return
    best = study.best_trials
    what = "the best trial" if len(study.directions) == 1 else "the Pareto front"
    passed = words_of(constraints)
    if not best:
        logs.show(f"{what}{passed}: none does")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("trial", *objectives, "point"):
        table.add_column(column)
    for trial in best:
        values = [f"{value:.4g}" for value in trial.values]
        table.add_row(*map(Text, (str(trial.number), *values, " ".join(trial.user_attrs[OVERRIDES]))))
    logs.show(f"{what}{passed}:")
    logs.show(table)


class RetriedTrials:
    """The trials that failed points carried out, begun again so that their study learns the new results.

    Args:
        sweep: the sweep, whose study is locked by the caller.
        points: the failed points, all prepared before.
        overrides: the overrides of the points that will run: their own, or those of the points that stand for them.
    """

    def __init__(self, sweep: Sweep, points: Sequence[Point], overrides: Sequence[Sequence[str]]) -> None:
        self._study: optuna.Study | None = None
        self._numbers: list[list[int]] = [[] for _ in points]
        self._of_jobs = [Job.read(sweep.job_file(point)).trial for point in points]
        first = next((trial for trial in self._of_jobs if trial is not None), None)
        if first is None:
            return
        import optuna

        self._storage = first.storage if "://" in first.storage else str(journal(sweep))  # outputs may have moved
        try:
            self._study = optuna.load_study(study_name=first.study, storage=open_storage(self._storage))
        except KeyError:
            _log.warning("'%s' has no study '%s': its points run without it", self._storage, first.study)
            return
        for numbers, point, texts in zip(self._numbers, points, overrides, strict=True):
            own = [trial for trial in trials_of(self._study) if tuple(trial.user_attrs[OVERRIDES]) == point.overrides]
            running = [trial for trial in own if trial.state.name == "RUNNING"]
            failed = [trial for trial in own if trial.state.name == "FAIL"]
            if tuple(texts) != point.overrides:  # another point carries them out, which a running trial cannot say
                for trial in running:
                    self._study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
                running, failed = [], [*running, *failed]
            numbers += [trial.number for trial in running]
            numbers += [begin_again(self._study, trial, texts) for trial in failed]

    @property
    def trials(self) -> list[Trial | None]:
        """The trial of each point; None for a point without one."""
        return [
            replace(trial, storage=self._storage, number=numbers[0]) if trial is not None and numbers else None
            for trial, numbers in zip(self._of_jobs, self._numbers, strict=True)
        ]

    def tell(self, statuses: Sequence[PointStatus | None], settings: SweepSettings) -> None:
        """Tell the study how the points ended, and print its results; without a study, do nothing."""
        if self._study is None:
            return
        for numbers, status in zip(self._numbers, statuses, strict=True):
            for number in numbers:
                tell(self._study, number, status, list(settings.objectives), settings.constraints)
        show(self._study)
        if paused := sum(status is not None and status.fate == Fate.PAUSED for status in statuses):
            _log.info(
                "%d of these points are paused: the command of the search lets them go on, or prunes them", paused
            )
