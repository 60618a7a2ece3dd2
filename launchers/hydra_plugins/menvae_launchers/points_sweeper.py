"""``hydra/sweeper=points``: Hydra's basic sweeper, without composing every job twice."""

from __future__ import annotations

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Override
from hydra.types import HydraContext, TaskFunction
from hydra_plugins.menvae_launchers.search_space import check_ranges
from omegaconf import DictConfig, OmegaConf


class PointsSweeper(BasicSweeper):
    """Hydra's basic sweeper, but a `SweepLauncher` composes all jobs before the first starts."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Create the launcher; keep the configuration, which Hydra saves as ``multirun.yaml``, without passwords."""
        from menvae.masking import masked

        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        plain = OmegaConf.to_container(config, resolve=False)
        without_passwords = masked(plain)
        if without_passwords != plain:
            self.config = OmegaConf.create(without_passwords)

    @staticmethod
    def split_arguments(overrides: list[Override], max_batch_size: int | None) -> list[list[list[str]]]:
        """Enumerate the points as Hydra does; raises `UserError` as `check_ranges` does."""
        check_ranges(overrides)
        return BasicSweeper.split_arguments(overrides, max_batch_size)

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Do nothing: the launcher composes every job."""
