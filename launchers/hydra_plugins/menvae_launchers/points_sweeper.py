"""``hydra/sweeper=points``: Hydra's basic sweeper, for launchers of menvae."""

from __future__ import annotations

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class PointsSweeper(BasicSweeper):
    """Hydra's basic sweeper, but a `SweepLauncher` composes all jobs before the first starts."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Create the launcher; raises `UserError` if it is not one of menvae."""
        from menvae.apps.launching import check_launcher

        check_launcher(config.hydra)
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Do nothing: the launcher composes every job."""
