"""``hydra/sweeper=points``: enumerates the points of a sweep, and lets the launcher run them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from hydra_plugins.menvae_launchers.axes import (
    check_columns,
    in_order_of_effect,
    overrides_of_sweep,
    points_of,
    settings_of,
)
from hydra_plugins.menvae_launchers.search_space import check_ranges
from omegaconf import DictConfig, OmegaConf


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
        overrides = overrides_of_sweep(self.hydra_context.config_loader, arguments, settings, self.params)
        check_ranges(overrides)
        points = points_of(in_order_of_effect(overrides, settings))
        check_columns(overrides, settings, lambda point: launcher.composed(point, 0))
        self._write_configuration()
        of_files = {f"{key}={values}" for key, values in (self.params or {}).items()}  # which never named a sweep
        swept = [one for one in overrides if one.is_sweep_override() and one.input_line not in of_files]
        launcher.swept = {override.get_key_element(): override.get_value_string() for override in swept}
        launcher.condition = None if settings.action == "retry" else settings.condition
        num_kept, size = 0, self.max_batch_size or len(points)
        for start in range(0, len(points), size):
            num_kept += len(launcher.launch(points[start : start + size], initial_job_idx=start))
        if not num_kept:
            raise UserError(f"sweep.where: no point of {len(points)} meets '{settings.where}'")

    def _write_configuration(self) -> None:
        """Write ``multirun.yaml`` as Hydra does, without passwords."""
        from menvae.masking import masked

        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        content = masked(OmegaConf.to_container(self.config, resolve=False))
        OmegaConf.save(OmegaConf.create(content), folder / "multirun.yaml")
