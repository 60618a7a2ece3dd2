"""``hydra/sweeper=optuna``: asks a study for trials, lets the launcher run them, and tells the study the results."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from hydra_plugins.menvae_launchers.axes import check_columns, groups_of, overrides_of_sweep, settings_of
from hydra_plugins.menvae_launchers.search_space import (
    Dimension,
    dimension,
    fraction_and_whole,
    grid,
    zipped_dimension,
)
from omegaconf import DictConfig

if TYPE_CHECKING:
    import optuna
    from hydra_plugins.menvae_launchers.sweep_launcher import SweepLauncher

    from menvae.composition.settings import SweepSettings
    from menvae.studies import Trial
    from menvae.sweeps.halving import Halving
    from menvae.sweeps.identifier import Identifier
    from menvae.sweeps.status import PointStatus

_SAMPLERS = ("tpe", "random", "grid", "cmaes", "nsga2")
_PRUNERS = ("none", "median", "halving", "hyperband")
_MOST_DRAWS = 200
"""How often a trial that does not meet the condition of the sweep is drawn again."""


def _launcher_class() -> type[SweepLauncher]:
    """Return the current class: Hydra loads each plugin module again, which creates a second class of that name."""
    from hydra_plugins.menvae_launchers.sweep_launcher import SweepLauncher

    return SweepLauncher


class OptunaSweeper(Sweeper):
    """Searches until a study has its number of trials; resumes an interrupted study."""

    def __init__(self, **settings: Any) -> None:
        """Args: settings: fields of `OptunaConf`."""
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Create the launcher."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run the search.

        Args:
            arguments: overrides of the command line; swept ones join ``sweep.space``.

        Raises:
            UserError: the search space, the objectives or the settings of the search are invalid.
        """
        from menvae.apps import outcome
        from menvae.errors import UserError
        from menvae.sweeps.launch import sweep_of
        from menvae.sweeps.trials import has_failed, journal, locked, show

        if not isinstance(self.launcher, _launcher_class()):
            raise UserError("hydra/sweeper=optuna needs a launcher of menvae, such as hydra/launcher=local or slurm")
        settings = settings_of(self.config)
        fixed, space = self._space(arguments, settings)
        distributions = {key: values.distribution for key, values in space.items()}
        self._check(settings, distributions)
        self._check_whole_numbers(fixed, space)
        self.launcher.swept = {
            key: text
            for name, values in space.items()
            for key, text in (values.typed_of or {name: _describe(values.distribution)}).items()
        }
        plain = self.launcher.composed(fixed, 0)
        sweep = sweep_of(plain, self.launcher.typed())
        halving = self._halving(plain, settings)
        self._check_aims(settings, fixed, space)
        if settings.action == "plan":
            self._show(settings, halving)
            return
        with locked(sweep):
            storage = self.settings["storage"] or str(journal(sweep))
            study = self.make_study(storage, sweep.name, settings, distributions, halving)
            self._search(study, storage, fixed, settings, space, halving)
        show(study)
        if has_failed(study):
            outcome.ended_elsewhere.append(1)

    def _search(
        self,
        study: optuna.Study,
        storage: str,
        fixed: Sequence[str],
        settings: SweepSettings,
        space: Mapping[str, Dimension],
        halving: Halving | None,
    ) -> None:
        """Run trials that have begun, then those that failed in earlier launches, then new ones.

        Trials that pause are judged beside all that came as far with them: until each has ended, no other begins.
        """
        import optuna

        from menvae.sweeps.trials import OVERRIDES, PASSED, begin_again, failed_trials, trials_of

        state = optuna.trial.TrialState
        distributions = {key: values.distribution for key, values in space.items()}
        most = self.settings["n_trials"]
        if self.settings["sampler"] == "grid":
            most = min(most, self._size_of_grid(grid(distributions), fixed, settings, space))
        failed = failed_trials(study)
        while True:
            for trial in study.get_trials(deepcopy=False, states=(state.RUNNING,)):
                if OVERRIDES not in trial.user_attrs:  # killed between asking for the trial and storing its overrides
                    study.tell(trial.number, state=state.FAIL)
            trials = trials_of(study)
            running = [each for each in trials if each.state == state.RUNNING]
            batch = [(each.number, each.user_attrs[OVERRIDES]) for each in running]
            is_under_way = halving is not None and any(PASSED in each.user_attrs for each in running)
            room = 0 if is_under_way else max(0, self.settings["batch"] - len(batch))
            again, failed = failed[:room], failed[room:]
            batch += [(begin_again(study, trial), trial.user_attrs[OVERRIDES]) for trial in again]
            num_new = min(room - len(again), most - len(trials))
            batch += [self._ask(study, fixed, settings, space) for _ in range(num_new)]
            if not batch:
                return
            self._run(study, storage, batch, fixed, settings, halving)

    def _ask(
        self, study: optuna.Study, fixed: Sequence[str], settings: SweepSettings, space: Mapping[str, Dimension]
    ) -> tuple[int, list[str]]:
        """Draw a trial that meets the condition of the sweep; return its number and its overrides.

        Raises:
            UserError: no drawn trial does.
        """
        import optuna

        from menvae.errors import UserError
        from menvae.sweeps.trials import OVERRIDES

        distributions = {key: values.distribution for key, values in space.items()}
        most = _MOST_DRAWS
        if self.settings["sampler"] == "grid":  # which draws every point once
            most = max(most, math.prod(map(len, grid(distributions).values())))
        for _ in range(most):
            asked = study.ask(distributions)
            overrides = _overrides(asked.params, space)
            if self._meets(settings, [*fixed, *overrides]):
                asked.set_user_attr(OVERRIDES, overrides)
                return asked.number, overrides
            study.tell(asked, state=optuna.trial.TrialState.FAIL)  # without overrides it does not count
        raise UserError(f"sweep.where: none of {most} drawn points meets '{settings.where}'")

    def _meets(self, settings: SweepSettings, overrides: Sequence[str]) -> bool:
        """Return whether a point meets the condition of the sweep."""
        assert isinstance(self.launcher, _launcher_class())
        condition = settings.condition
        return condition is None or condition.holds(self.launcher.composed(overrides, 0))

    def _size_of_grid(
        self,
        values: Mapping[str, Sequence[Any]],
        fixed: Sequence[str],
        settings: SweepSettings,
        space: Mapping[str, Dimension],
    ) -> int:
        """Return the number of points of a grid that meet the condition; raises `UserError` for none."""
        from menvae.errors import UserError

        points = [dict(zip(values, drawn, strict=True)) for drawn in itertools.product(*values.values())]
        num = sum(self._meets(settings, [*fixed, *_overrides(point, space)]) for point in points)
        if not num:
            raise UserError(f"sweep.where: no point of {len(points)} meets '{settings.where}'")
        return num

    def _run(
        self,
        study: optuna.Study,
        storage: str,
        batch: Sequence[tuple[int, list[str]]],
        fixed: Sequence[str],
        settings: SweepSettings,
        halving: Halving | None,
    ) -> None:
        """Run trials, and tell the study their results.

        Raises:
            UserError: no trial of the study has a result yet, and these trials cannot run or lack an objective: the
                others would end the same way.
        """
        from menvae.errors import UserError

        assert isinstance(self.launcher, _launcher_class())
        self.launcher.trials = self._trials(study, storage, [number for number, _ in batch], settings, halving)
        jobs = [[*fixed, *overrides] for _, overrides in batch]
        answers = self.launcher.launch(jobs, initial_job_idx=batch[0][0])
        cannot_run = [answer.return_value.problem for answer in answers if answer.return_value.problem]
        statuses = {number: answer.return_value.status for (number, _), answer in zip(batch, answers, strict=True)}
        lacking = self._tell(study, statuses, settings, halving)
        states = {trial.state.name for trial in study.get_trials(deepcopy=False)}
        if lacking and "COMPLETE" not in states:
            raise UserError(lacking[0])
        if len(cannot_run) == len(batch) and not states & {"COMPLETE", "PRUNED"}:
            raise UserError(f"the search ends, because its first trials cannot run: {cannot_run[0]}")

    def _trials(
        self,
        study: optuna.Study,
        storage: str,
        numbers: Sequence[int],
        settings: SweepSettings,
        halving: Halving | None,
    ) -> list[Trial]:
        """Return trials as their jobs see them; those that pause have nothing to report themselves."""
        from menvae.studies import Trial

        options = self.settings["startup_trials"], self.settings["warmup_epochs"]
        if halving is None:
            metric = next(iter(settings.objectives)) if len(settings.objectives) == 1 else ""
            pruner = self.settings["pruner"]
            return [Trial(storage, study.study_name, number, metric, pruner, *options) for number in numbers]
        known = study.get_trials(deepcopy=False)
        pauses = {number: halving.next_rung(known[number]) for number in numbers}
        return [Trial(storage, study.study_name, number, "", "none", *options, pauses[number]) for number in numbers]

    @staticmethod
    def _tell(
        study: optuna.Study,
        statuses: Mapping[int, PointStatus | None],
        settings: SweepSettings,
        halving: Halving | None,
    ) -> list[str]:
        """Tell a study how its trials ended, and settle which of those that are paused go on.

        Args:
            study: the study.
            statuses: {number of a trial: status of its point; None if it cannot run}.
            settings: settings of the sweep.
            halving: the rules for trials that pause, or None.

        Returns:
            A sentence for each trial that lacks an objective, if no trial of the study has it.
        """
        from menvae.errors import UserError
        from menvae.sweeps.runners import Fate
        from menvae.sweeps.trials import tell

        lacking: list[str] = []
        paused: dict[int, PointStatus] = {}
        for number, status in statuses.items():
            try:
                if halving is not None:
                    halving.report(study, number, status)
                tell(study, number, status, list(settings.objectives), settings.constraints)
            except UserError as error:
                lacking.append(str(error))
                continue
            if status is not None and status.fate == Fate.PAUSED:
                paused[number] = status
        if halving is not None and paused:
            halving.settle(study, paused, others_ended=len(paused) < len(statuses))
        return lacking

    def make_study(
        self,
        storage: str,
        name: str,
        settings: SweepSettings,
        distributions: dict[str, optuna.distributions.BaseDistribution],
        halving: Halving | None = None,
    ) -> optuna.Study:
        """Create or resume the study, and set its sampler; raises `UserError` if it belongs to another search."""
        import optuna

        from menvae.errors import UserError
        from menvae.studies import open_storage

        study = optuna.create_study(
            storage=open_storage(storage),
            study_name=name,
            directions=list(settings.objectives.values()),
            load_if_exists=True,
        )
        about = {
            "objectives": dict(settings.objectives),
            "constraints": list(settings.constraints),
            "space": {k: _describe(d) for k, d in distributions.items()},
            "pauses": "none" if halving is None else str(halving),
        }
        for what, now in about.items():
            before = study.user_attrs.get(what, now)
            if before != now:
                raise UserError(
                    f"study '{name}' has different {what} ({before}) than this search ({now}); use another sweep.name"
                )
            study.set_user_attr(what, now)
        seed = self.settings["seed"] + len(study.get_trials(deepcopy=False))  # a resumed study draws new trials
        samplers = {
            "tpe": lambda: optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True),
            "random": lambda: optuna.samplers.RandomSampler(seed=seed),
            "grid": lambda: _grid_sampler(distributions, self.settings["seed"]),
            "cmaes": lambda: optuna.samplers.CmaEsSampler(seed=seed),
            "nsga2": lambda: optuna.samplers.NSGAIISampler(seed=seed),
        }
        study.sampler = samplers[self.settings["sampler"]]()
        return study

    def _space(self, arguments: Sequence[str], settings: SweepSettings) -> tuple[list[str], dict[str, Dimension]]:
        """Return the overrides that all trials share, and the searched keys."""
        from menvae.apps.sweep_grammar import ZipSweep

        overrides = overrides_of_sweep(self.hydra_context.config_loader, arguments, settings)
        check_columns(overrides, settings, lambda point: self.launcher.composed(point, 0))
        fixed: list[str] = []
        space: dict[str, Dimension] = {}
        for positions in groups_of(overrides):
            members = [overrides[position] for position in positions]
            keys = [override.get_key_element() for override in members]
            if not members[0].is_sweep_override():
                fixed.append(members[0].input_line or "")
            elif isinstance(members[0].value(), ZipSweep):
                space[", ".join(keys)] = zipped_dimension(members)
            else:
                space[keys[0]] = dimension(members[0])
        return fixed, space

    def _check_whole_numbers(self, fixed: Sequence[str], space: Mapping[str, Dimension]) -> None:
        """Check that a key that takes only whole numbers is not searched over fractions, which would all fail."""
        from menvae.errors import UserError
        from menvae.sweeps.identifier import Identifier

        identifier = Identifier(None, prepares=False)
        for key, values in space.items():
            found = fraction_and_whole(values)
            if found is None:
                continue
            fraction, whole = ([*fixed, f"{key}={text}"] for text in found)
            if not self._is_valid(identifier, fraction) and self._is_valid(identifier, whole):
                inner = values.typed[4:-1] if values.typed.startswith("tag(") else values.typed
                remedy = "a range of whole numbers" if values.fractions else f"tag(int,{inner})"
                raise UserError(
                    f"{key}: '{values.typed}' contains fractions, but {key} takes whole numbers; use {remedy}"
                )

    def _is_valid(self, identifier: Identifier, overrides: Sequence[str]) -> bool:
        """Return whether an experiment with these overrides passes all checks that need no data."""
        from menvae.errors import UserError

        assert isinstance(self.launcher, _launcher_class())
        try:
            identifier.experiment(self.launcher.composed(overrides, 0))
        except UserError:
            return False
        return True

    def _check(self, settings: SweepSettings, space: dict[str, optuna.distributions.BaseDistribution]) -> None:
        from menvae.errors import UserError, nearest

        own = self.settings
        for key, allowed in (("sampler", _SAMPLERS), ("pruner", _PRUNERS)):
            if own[key] not in allowed:
                raise UserError(f"hydra.sweeper.{key}: '{own[key]}' does not exist; {nearest(own[key], allowed)}")
        if own["n_trials"] < 1 or own["batch"] < 1:
            raise UserError("hydra.sweeper: n_trials and batch must be 1 or larger")
        if settings.action == "retry":
            raise UserError("sweep.action=retry does not search; use menvae-sweep retry")
        if settings.until is not None:
            raise UserError("sweep.until: a search repeats no trial; use it in a sweep without hydra/sweeper=optuna")
        if not space:
            raise UserError(
                "hydra/sweeper=optuna: nothing to search; add sweep=volumes or loss.lambda_dcor=interval(0,10)"
            )
        if not settings.objectives:
            raise UserError(
                "hydra/sweeper=optuna: sweep.objectives is empty; add +sweep.objectives={sem/vol_r2: maximize}"
            )
        if own["pruner"] != "none":
            if len(settings.objectives) > 1:
                raise UserError(
                    "hydra.sweeper.pruner: Optuna cannot prune with several objectives; use none, and let the collapse "
                    "watch stop runs (watch.collapse=stop), which Optuna counts as pruned"
                )
            if next(iter(settings.objectives)).startswith("gate/"):
                raise UserError(
                    "hydra.sweeper.pruner: gates are evaluated only at the end; use a key of metrics.jsonl as objective"
                )
        if own["sampler"] == "grid":
            grid(space)
        if own["sampler"] == "cmaes" and len(settings.objectives) > 1:
            raise UserError("hydra.sweeper.sampler=cmaes supports a single objective; use tpe or nsga2 for several")
        if own["sampler"] == "cmaes" and settings.constraints:
            raise UserError("hydra.sweeper.sampler=cmaes does not support sweep.constraints; use tpe or nsga2")

    def _halving(self, plain: Mapping[str, Any], settings: SweepSettings) -> Halving | None:
        """Return the rules of a search whose trials pause, or None; raises `UserError`."""
        from menvae.errors import UserError
        from menvae.registry import validated
        from menvae.sweeps.halving import PRUNERS, Halving
        from menvae.training.settings import TrainerSettings

        own = self.settings
        if own["pruner"] not in PRUNERS:
            return None
        assert isinstance(self.launcher, _launcher_class())
        for key in ("trainer.max_epochs", "trainer.validate_every_epochs"):
            if key in (self.launcher.swept or {}):
                raise UserError(
                    f"{key}: not allowed in a search with hydra.sweeper.pruner={own['pruner']}, which compares trials "
                    "after equally many epochs"
                )
        return Halving(
            pruner=own["pruner"],
            min_epochs=own["min_epochs"],
            reduction_factor=own["reduction_factor"],
            metric=next(iter(settings.objectives)),
            trainer=validated(TrainerSettings, plain["trainer"], "trainer"),
        )

    def _check_aims(self, settings: SweepSettings, fixed: Sequence[str], space: Mapping[str, Dimension]) -> None:
        """Check that trials have the objectives and constraints; raises `UserError`."""
        import optuna

        from menvae.sweeps.aims import check_aims

        options = (
            values.overrides(name, choice)
            for name, values in space.items()
            if isinstance(values.distribution, optuna.distributions.CategoricalDistribution)
            for choice in values.distribution.choices
        )
        points = itertools.chain([list(fixed)], ([*fixed, *texts] for texts in options))
        check_aims(settings, (self.launcher.composed(point, 0) for point in points))

    def _show(self, settings: SweepSettings, halving: Halving | None) -> None:
        from rich.table import Table

        from menvae.console import logs

        assert isinstance(self.launcher, _launcher_class())
        table = Table(box=None, pad_edge=False, header_style="bold", title=None)
        table.add_column("key")
        table.add_column("searched")
        for key, values in (self.launcher.swept or {}).items():
            table.add_row(key, values)
        for metric, direction in settings.objectives.items():
            table.add_row(metric, direction, style="bold")
        logs.show(table)
        own = self.settings
        if settings.where is not None:
            logs.show(f"where {settings.where}")
        logs.show(
            f"{own['n_trials']} trials in batches of {own['batch']}, sampler {own['sampler']}, pruner {own['pruner']}"
        )
        if halving is not None:
            logs.show(f"trials pause: {halving}")
        if settings.constraints:
            logs.show(f"constraints: passes {', '.join(settings.constraints)}")


def _grid_sampler(space: dict[str, optuna.distributions.BaseDistribution], seed: int) -> optuna.samplers.GridSampler:
    """Return a grid sampler that leaves stopping at the end of the grid to `OptunaSweeper`."""
    import optuna

    class Grid(optuna.samplers.GridSampler):
        def after_trial(self, *_: object) -> None:
            """Do nothing: Optuna's version calls ``study.stop``, which fails in the ask-and-tell interface."""

    return Grid(grid(space), seed=seed)


def _overrides(drawn: Mapping[str, Any], space: Mapping[str, Dimension]) -> list[str]:
    """Return the overrides of drawn values."""
    return [text for name, value in drawn.items() for text in space[name].overrides(name, value)]


def _describe(distribution: optuna.distributions.BaseDistribution) -> str:
    return str(distribution).replace("Distribution", "")
