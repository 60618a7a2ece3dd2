"""``hydra/sweeper=points``: enumerates the points of a sweep, and lets the launcher run them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from hydra_plugins.menvae_launchers.axes import (
    check_columns,
    groups_of,
    in_order_of_effect,
    overrides_of_sweep,
    points_of,
    settings_of,
)
from hydra_plugins.menvae_launchers.search_space import check_ranges
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from menvae.composition.settings import SweepSettings

_log = logging.getLogger("menvae.sweeps")


class PointsSweeper(Sweeper):
    """Enumerates points as Hydra's basic sweeper does, and those of ``zip(...)``, ``1..5`` and tables.

    The launcher composes all points before the first starts.
    """

    def __init__(self, *, max_batch_size: int | None, params: Mapping[str, Any] | None) -> None:
        """Store the keys.

        Args:
            max_batch_size: number of points that are launched together; None: all.
            params: axes that files give, ``key: values``; those of the command line replace them.
        """
        self.max_batch_size, self.params = max_batch_size, params

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Create the launcher; keep the configuration."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Launch the points.

        Args:
            arguments: overrides of the command line.

        Raises:
            HydraException: an override is invalid.
            UserError: the axes, the table or the condition are invalid, or no point meets the condition.
        """
        from hydra_plugins.menvae_launchers.sweep_launcher import SweepLauncher

        from menvae.errors import UserError

        if not isinstance(self.launcher, SweepLauncher):
            raise UserError("hydra/sweeper=points needs a launcher of menvae, such as hydra/launcher=local or slurm")
        launcher, settings = self.launcher, settings_of(self.config)
        launcher.condition = None if settings.action == "retry" else settings.condition
        if settings.until is not None and settings.action == "run":
            self._check_wait()
        overrides = overrides_of_sweep(self.hydra_context.config_loader, arguments, settings, self.params)
        check_ranges(overrides)
        points = points_of(in_order_of_effect(overrides, settings))
        check_columns(overrides, settings, lambda point: launcher.composed(point, 0))
        if settings.until is not None:
            _check_seeds(overrides)
            if settings.action != "retry":
                self._check_until(settings, points)
        if settings.action != "retry" and (settings.objectives or settings.constraints):
            self._check_aims(settings, points)
        self._write_configuration()
        of_files = {f"{key}={values}" for key, values in (self.params or {}).items()}  # which never named a sweep
        swept = [one for one in overrides if one.is_sweep_override() and one.input_line not in of_files]
        launcher.swept = {override.get_key_element(): override.get_value_string() for override in swept}
        if settings.until is not None and "seed" not in launcher.swept:
            launcher.swept = {**launcher.swept, "seed": str(launcher.composed(points[0], 0)["seed"])}
        answers = self._launched(points, 0)
        if not answers:
            raise UserError(f"sweep.where: no point of {len(points)} meets '{settings.where}'")
        if settings.until is not None and settings.action == "run":
            self._add_seeds(settings, answers, len(points))
        elif settings.until is not None and settings.action == "plan":
            _log.info("sweep.until: a run adds seeds to these, up to %d of a configuration", settings.max_seeds)

    def _launched(self, points: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
        """Launch points, the first of which has the number ``first``; return the answers of those that are kept."""
        size = self.max_batch_size or max(1, len(points))
        answers: list[JobReturn] = []
        for start in range(0, len(points), size):
            answers += self.launcher.launch(points[start : start + size], initial_job_idx=first + start)
        return answers

    def _add_seeds(self, settings: SweepSettings, answers: Sequence[JobReturn], num: int) -> None:
        """Launch further seeds, one of each configuration at a time, until ``sweep.until`` holds."""
        from menvae.sweeps.seeds import AddedSeeds

        wanted = settings.wanted_interval
        assert wanted is not None
        seeds = AddedSeeds(wanted, settings.max_seeds, self._is_kept)
        while answers:
            for answer in answers:
                config = self.launcher.composed(answer.overrides, 0)
                seeds.add(answer.overrides, config, answer.return_value.status)
            points = seeds.next_points()
            answers = self._launched(points, num)
            num += len(points)
        seeds.log_end()

    def _is_kept(self, point: Sequence[str]) -> bool:
        """Return whether a point meets ``sweep.where``; raises `UserError` if that cannot be computed."""
        condition = self.launcher.condition
        return condition is None or condition.holds(self.launcher.composed(point, 0))

    def _check_until(self, settings: SweepSettings, points: Sequence[Sequence[str]]) -> None:
        """Check what is known of ``sweep.until`` before a point runs: its metric, and the number of seeds.

        Raises:
            UserError: no point has the gate or metric, or a configuration has more seeds than ``sweep.max_seeds``.
        """
        from menvae.sweeps.seeds import check_metric, check_number

        wanted = settings.wanted_interval
        assert wanted is not None
        kept = [point for point in points if self._is_kept(point)]
        check_number(kept, settings.max_seeds)
        check_metric(wanted, (self.launcher.composed(point, 0) for point in kept))

    def _check_aims(self, settings: SweepSettings, points: Sequence[Sequence[str]]) -> None:
        """Check that a point has the objectives and constraints, by which ``watch`` ranks; raises `UserError`."""
        from menvae.sweeps.aims import check_aims

        check_aims(settings, (self.launcher.composed(point, 0) for point in points if self._is_kept(point)))

    def _check_wait(self) -> None:
        """Check that the launcher waits for results; raises `UserError`."""
        from menvae.errors import UserError
        from menvae.sweeps.runners import build_runner

        if not build_runner({"runner": self.launcher.runner, **self.launcher.settings}).wait:
            raise UserError("sweep.until: what seeds to add depends on results; leave out hydra.launcher.wait=false")

    def _write_configuration(self) -> None:
        """Write ``multirun.yaml`` as Hydra does, without passwords."""
        from menvae.masking import masked

        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        content = masked(OmegaConf.to_container(self.config, resolve=False))
        OmegaConf.save(OmegaConf.create(content), folder / "multirun.yaml")


def _check_seeds(overrides: Sequence[Override]) -> None:
    """Check that seeds can be added alone; raises `UserError` if they advance together with other keys."""
    from menvae.errors import UserError

    for positions in groups_of(overrides):
        keys = [overrides[position].get_key_element().lstrip("+") for position in positions]
        if "seed" in keys and len(keys) > 1:
            others = ", ".join(key for key in keys if key != "seed")
            raise UserError(
                f"sweep.until: seed advances together with {others}, so that none can be added; give it an axis of its "
                "own, such as seed=1,2"
            )
