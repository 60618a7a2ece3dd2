"""``hydra/sweeper=optuna``: asks a study for trials, lets the launcher run them, and tells the study the results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep, Transformer
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    import optuna
    from hydra_plugins.menvae_launchers.sweep_launcher import SweepLauncher

    from menvae.composition.settings import SweepSettings
    from menvae.sweeps.launch import Result

_OVERRIDES = "overrides"
_SAMPLERS = ("tpe", "random", "grid", "cmaes", "nsga2")
_PRUNERS = ("none", "median")


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
        from menvae.composition.settings import SweepSettings
        from menvae.errors import UserError
        from menvae.files import FolderIsLockedError, FolderLock
        from menvae.registry import validated
        from menvae.sweeps.launch import sweep_of

        if not isinstance(self.launcher, _launcher_class()):
            raise UserError("hydra/sweeper=optuna needs a launcher of menvae, such as hydra/launcher=local or slurm")
        content = OmegaConf.to_container(self.config.sweep, resolve=True)
        assert isinstance(content, dict)
        settings = validated(SweepSettings, {str(key): value for key, value in content.items()}, "sweep")
        fixed, distributions = self._space(arguments, settings)
        self._check(settings, distributions)
        self.launcher.swept = {key: _describe(distribution) for key, distribution in distributions.items()}
        plain = self.launcher.composed(fixed, 0)
        sweep = sweep_of(plain, self.launcher.typed())
        if settings.action == "plan":
            self._show(settings)
            return
        folder = sweep.path / "study"
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = FolderLock(folder)
        except FolderIsLockedError as error:
            raise UserError(f"sweep '{sweep.name}' is being searched by {error}; wait until it ends") from None
        storage = self.settings["storage"] or str(folder / "journal.log")
        study = self.make_study(storage, sweep.name, settings, distributions)
        try:
            self._search(study, storage, fixed, settings, distributions)
        finally:
            lock.release()
        self._report(study, settings)

    def _search(
        self,
        study: optuna.Study,
        storage: str,
        fixed: Sequence[str],
        settings: SweepSettings,
        distributions: dict[str, optuna.distributions.BaseDistribution],
    ) -> None:
        import optuna

        state = optuna.trial.TrialState
        while True:
            trials = study.get_trials(deepcopy=False)
            begun = [trial for trial in trials if trial.state == state.RUNNING]
            for trial in begun:
                if _OVERRIDES not in trial.user_attrs:  # killed between asking for the trial and storing its overrides
                    study.tell(trial.number, state=state.FAIL)
            batch = [(trial.number, trial.user_attrs[_OVERRIDES]) for trial in begun if _OVERRIDES in trial.user_attrs]
            num_ended = len(trials) - len(begun)
            num_new = min(self.settings["batch"], self.settings["n_trials"] - num_ended - len(batch))
            exhausted = isinstance(study.sampler, optuna.samplers.GridSampler) and study.sampler.is_exhausted(study)
            for _ in range(0 if exhausted else max(0, num_new)):
                asked = study.ask(distributions)
                overrides = [f"{key}={_typed(value)}" for key, value in asked.params.items()]
                asked.set_user_attr(_OVERRIDES, overrides)
                batch.append((asked.number, overrides))
            if not batch:
                return
            self._run(study, storage, batch, fixed, settings)

    def _run(
        self,
        study: optuna.Study,
        storage: str,
        batch: Sequence[tuple[int, list[str]]],
        fixed: Sequence[str],
        settings: SweepSettings,
    ) -> None:
        from menvae.studies import Trial

        assert isinstance(self.launcher, _launcher_class())
        options = (self.settings["pruner"], self.settings["startup_trials"], self.settings["warmup_epochs"])
        metric = next(iter(settings.objectives)) if len(settings.objectives) == 1 else ""
        self.launcher.trials = [Trial(storage, study.study_name, number, metric, *options) for number, _ in batch]
        jobs = [[*fixed, *overrides] for _, overrides in batch]
        answers = self.launcher.launch(jobs, initial_job_idx=batch[0][0])
        for (number, _), answer in zip(batch, answers, strict=True):
            self._tell(study, number, answer.return_value, settings)

    @staticmethod
    def _tell(study: optuna.Study, number: int, result: Result, settings: SweepSettings) -> None:
        import optuna

        from menvae.studies import objective_values
        from menvae.sweeps.runners import Fate

        state = optuna.trial.TrialState
        status = result.status
        if status is not None and status.run_dir is not None and status.fate == Fate.FINISHED:
            values = objective_values(status.run_dir, list(settings.objectives))
            if values is not None:
                study.tell(number, values)
                return
        pruned = status is not None and status.fate in (Fate.PRUNED, Fate.COLLAPSED)
        study.tell(number, state=state.PRUNED if pruned else state.FAIL)

    def make_study(
        self,
        storage: str,
        name: str,
        settings: SweepSettings,
        distributions: dict[str, optuna.distributions.BaseDistribution],
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
        about = {"objectives": dict(settings.objectives), "space": {k: _describe(d) for k, d in distributions.items()}}
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

    def _space(
        self, arguments: Sequence[str], settings: SweepSettings
    ) -> tuple[list[str], dict[str, optuna.distributions.BaseDistribution]]:
        from menvae.errors import UserError

        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        typed = parser.parse_overrides(list(arguments))
        searched = parser.parse_overrides([f"{key}={values}" for key, values in settings.space.items()])
        for override in searched:
            if not override.is_sweep_override():
                raise UserError(
                    f"sweep.space: '{override.input_line}' is not a space; use choice(...), range(...) or interval(...)"
                )
        by_key = {o.get_key_element(): o for o in searched} | {o.get_key_element(): o for o in typed}
        distributions = {key: _distribution(o) for key, o in by_key.items() if o.is_sweep_override()}
        fixed = [o.input_line or "" for o in by_key.values() if not o.is_sweep_override()]
        return fixed, distributions

    def _check(self, settings: SweepSettings, space: dict[str, optuna.distributions.BaseDistribution]) -> None:
        from menvae.errors import UserError, nearest

        own = self.settings
        for key, allowed in (("sampler", _SAMPLERS), ("pruner", _PRUNERS)):
            if own[key] not in allowed:
                raise UserError(f"hydra.sweeper.{key}: '{own[key]}' does not exist; {nearest(own[key], allowed)}")
        if own["n_trials"] < 1 or own["batch"] < 1:
            raise UserError("hydra.sweeper: n_trials and batch must be 1 or larger")
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
            _grid(space)
        if own["sampler"] == "cmaes" and len(settings.objectives) > 1:
            raise UserError("hydra.sweeper.sampler=cmaes supports a single objective; use tpe or nsga2 for several")

    def _show(self, settings: SweepSettings) -> None:
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
        logs.show(
            f"{own['n_trials']} trials in batches of {own['batch']}, sampler {own['sampler']}, pruner {own['pruner']}"
        )

    @staticmethod
    def _report(study: optuna.Study, settings: SweepSettings) -> None:
        from collections import Counter

        from rich.table import Table
        from rich.text import Text

        from menvae.console import logs

        counts = Counter(trial.state.name.lower() for trial in study.get_trials(deepcopy=False))
        logs.show(f"study {study.study_name}: " + ", ".join(f"{count} {state}" for state, count in counts.items()))
        if not counts["complete"]:
            return
        best = study.best_trials
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("trial", *settings.objectives, "point"):
            table.add_column(column)
        for trial in best:
            values = [f"{value:.4g}" for value in trial.values]
            table.add_row(*map(Text, (str(trial.number), *values, " ".join(trial.user_attrs[_OVERRIDES]))))
        logs.show("the best trial:" if len(settings.objectives) == 1 else "the Pareto front:")
        logs.show(table)


def _distribution(override: Override) -> optuna.distributions.BaseDistribution:
    """Return Optuna's distribution for a parsed Hydra sweep."""
    import optuna

    from menvae.errors import UserError

    value, key = override.value(), override.get_key_element()
    if isinstance(value, ChoiceSweep):
        return optuna.distributions.CategoricalDistribution(list(override.sweep_iterator(Transformer.encode)))
    if isinstance(value, RangeSweep):
        assert value.start is not None
        assert value.stop is not None
        if isinstance(value.start, int) and isinstance(value.stop, int) and isinstance(value.step, int):
            last = value.start + (value.stop - 1 - value.start) // value.step * value.step
            return optuna.distributions.IntDistribution(value.start, last, step=value.step)
        return optuna.distributions.FloatDistribution(value.start, value.stop, step=value.step)
    if isinstance(value, IntervalSweep):
        low, high, log = value.start, value.end, "log" in value.tags
        try:
            if "int" in value.tags:
                return optuna.distributions.IntDistribution(int(low), int(high), log=log)
            return optuna.distributions.FloatDistribution(float(low), float(high), log=log)
        except ValueError as error:
            raise UserError(f"{key}: '{override.input_line}' cannot be searched: {error}") from None
    raise UserError(f"{key}: '{override.input_line}' cannot be searched; use choice, range or interval")


def _grid(space: dict[str, optuna.distributions.BaseDistribution]) -> dict[str, list[Any]]:
    import optuna

    from menvae.errors import UserError

    grid: dict[str, list[Any]] = {}
    for key, distribution in space.items():
        if isinstance(distribution, optuna.distributions.CategoricalDistribution):
            grid[key] = list(distribution.choices)
        elif isinstance(distribution, optuna.distributions.IntDistribution):
            grid[key] = list(range(distribution.low, distribution.high + 1, distribution.step))
        else:
            raise UserError(f"hydra.sweeper.sampler=grid: {key} is continuous; use choice(...) or integer range(...)")
    return grid


def _grid_sampler(space: dict[str, optuna.distributions.BaseDistribution], seed: int) -> optuna.samplers.GridSampler:
    """Return a grid sampler that leaves stopping at the end of the grid to `OptunaSweeper`."""
    import optuna

    class Grid(optuna.samplers.GridSampler):
        def after_trial(self, *_: object) -> None:
            """Do nothing: Optuna's version calls ``study.stop``, which fails in the ask-and-tell interface."""

    return Grid(_grid(space), seed=seed)


def _describe(distribution: optuna.distributions.BaseDistribution) -> str:
    return str(distribution).replace("Distribution", "")


def _typed(value: object) -> str:
    return value if isinstance(value, str) else repr(value)
