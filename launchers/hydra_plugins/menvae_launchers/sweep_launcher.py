"""The launcher class of menvae: from Hydra's job overrides to a campaign, and back to Hydra's results.

``conf/hydra/launcher/<name>.yaml`` names this class as its target, a registered runner, and the keys of that runner.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Mapping, Sequence
from itertools import compress, zip_longest
from typing import TYPE_CHECKING, Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus, env_override, filter_overrides
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, RunMode, TaskFunction
from hydra_plugins.menvae_launchers.composing import Composer
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from menvae.composition.condition import Condition
    from menvae.studies import Trial
    from menvae.sweeps.launch import Command


_log = logging.getLogger("menvae.sweeps")

Job = tuple[Sequence[str], Mapping[str, Any]]
"""Overrides of a point, and its composed configuration."""

_UNLESS_CHOSEN = "local"
"""The launcher in ``conf/launching.yaml``."""


class SweepLauncher(Launcher):
    """Launches the points of a sweep of ``menvae-train``, each once and identified by its run."""

    def __init__(self, *, runner: str, **settings: Any) -> None:
        """Store the configuration; it is checked when a sweep is launched.

        Args:
            runner: registered name of the runner.
            settings: keys of the runner.
        """
        self.runner = runner
        self.trials: Sequence[Trial] = ()
        """Trials of a study, one per job of the next launch; set by a sweeper that searches."""
        self.swept: Mapping[str, str] | None = None
        """{key: its values or search space}, set by a sweeper; None: as on the command line."""
        self.condition: Condition | None = None
        """Condition that points have to meet, set by a sweeper; those that do not are left out."""
        self.settings = {
            key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            for key, value in settings.items()
        }

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store Hydra's objects; `menvae.apps.job` runs the jobs, not the task function."""
        self.hydra_context, self.config = hydra_context, config
        self._composer: Composer | None = None

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the unfinished ones of these points; their exit codes go to `menvae.apps.outcome`.

        Returns:
            One result per point that meets the condition.
        """
        from menvae.apps import outcome
        from menvae.errors import UserError
        from menvae.sweeps.launch import launch_points, sweep_settings
        from menvae.sweeps.runners import build_runner

        runner = build_runner({"runner": self.runner, **self.settings})
        command = self.config.hydra.job.config_name
        if command != "train":
            raise UserError(
                f"hydra/launcher: the launchers of menvae run points of menvae-train; menvae-{command} -m has Hydra's, "
                "such as basic and submitit_slurm"
            )
        jobs = [
            (filter_overrides(overrides), self.composed(overrides, initial_job_idx + index))
            for index, overrides in enumerate(job_overrides)
        ]
        if self.condition is not None:
            jobs, job_overrides = self._kept(self.condition, jobs, job_overrides)
            if not jobs:
                return []
        settings = sweep_settings(jobs[0][1])
        if settings.action != "plan":
            gc.enable()  # off since the command began; a launch or a study takes days
        variables = OmegaConf.to_container(self.config.hydra.job.env_set, resolve=True)
        with env_override(cast(dict[str, str], variables)):  # jobs inherit the environment of this process
            results = launch_points(jobs, self.typed(), runner, self.trials, goes_on=initial_job_idx > 0)
        outcome.only_looked.append(settings.action == "plan" and not settings.cost)  # a cost may start processes
        outcome.ended_elsewhere.extend(result.exit_code for result in results)
        returns = [JobReturn(overrides=overrides, status=JobStatus.COMPLETED) for overrides in job_overrides]
        for answer, result in zip_longest(returns, results[: len(returns)]):
            answer.return_value = result
        return returns

    @staticmethod
    def _kept(
        condition: Condition, jobs: Sequence[Job], job_overrides: Sequence[Sequence[str]]
    ) -> tuple[list[Job], list[Sequence[str]]]:
        """Return the jobs that meet a condition, and their overrides; raises `UserError` if it cannot be computed."""
        from menvae.console import logs

        meets = [condition.holds(config) for _, config in jobs]
        if any(meets) and not all(meets):
            logs.configure(None)
            _log.info("sweep.where leaves out %d of %d points", meets.count(False), len(meets))
        return list(compress(jobs, meets)), list(compress(job_overrides, meets))

    def composed(self, overrides: Sequence[str], number: int) -> dict[str, Any]:
        """Return the resolved configuration of a job, without the ``hydra`` section; raises `UserError`."""
        from menvae.composition.experiment import check_sections
        from menvae.runs.parent import extended

        if self._composer is None:
            self._composer = Composer(self.hydra_context.config_loader, self.config)
        config = self._composer(overrides, number)
        check_sections(config)
        return dict(extended(config, filter_overrides(overrides)))

    def _from_files(self, typed: Sequence[str]) -> list[str]:
        """Return the overrides that repeat what experiment and sweep files say about launching.

        A retry composes without these files, because its points are composed already.

        Args:
            typed: overrides about launching on the command line, whose files a retry reads again.
        """
        from menvae.apps.command_line import hydra_text

        chosen = self.config.hydra.runtime.choices["hydra/launcher"]
        choice = [] if any(text.startswith("hydra/launcher=") for text in typed) else [f"hydra/launcher={chosen}"]
        loader = self.hydra_context.config_loader
        keys = {text.partition("=")[0].lstrip("+~").partition("@")[0] for text in self.config.hydra.overrides.task}
        if not any(key.startswith("hydra.") or loader.get_group_options(key) for key in keys):  # no file is chosen
            return [] if chosen == _UNLESS_CHOSEN else choice
        alone = loader.load_configuration("train", [*typed, *choice], RunMode.MULTIRUN)
        found = [] if chosen == _UNLESS_CHOSEN else choice
        for section in ("launcher", "job.env_set"):
            before, now = (
                cast(dict[str, Any], OmegaConf.to_container(OmegaConf.select(config.hydra, section), resolve=False))
                for config in (alone, self.config)
            )
            changed = [key for key in now if key not in before or before[key] != now[key]]
            found += [f"++hydra.{section}.{key}={hydra_text(now[key])}" for key in changed]
        return found

    def typed(self) -> Command:
        """Return the command line, with the search space of a sweeper that searches."""
        from menvae.sweeps.launch import Command

        typed = self.config.hydra.overrides
        sources = self.config.hydra.runtime.config_sources
        folders = [source.path for source in sources if source.provider == "command-line"]
        about_launching = [text for text in typed.hydra if not text.startswith("hydra.mode=")]
        about_launching += [text for text in typed.task if text.startswith("site=")]
        launcher = [text for folder in folders for text in ("--config-dir", folder)]
        launcher += [*about_launching, *self._from_files(about_launching)]
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides([text for text in typed.task if not text.startswith("site=")])
        texts = [override.input_line or "" for override in overrides]
        are_swept = [override.is_sweep_override() for override in overrides]
        keys = [override.get_key_element() for override in overrides]
        if self.swept is not None:
            fixed = [text for key, text in zip(keys, texts, strict=True) if key not in self.swept]
            return Command(self.swept, fixed, launcher)
        swept = {key: text.partition("=")[2] for key, text, it in zip(keys, texts, are_swept, strict=True) if it}
        fixed = [text for text, it in zip(texts, are_swept, strict=True) if not it]
        return Command(swept, fixed, launcher)
