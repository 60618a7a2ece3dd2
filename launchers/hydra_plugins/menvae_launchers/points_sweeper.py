"""``hydra/sweeper=points``: Hydra's basic sweeper, without composing every job twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
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
        if masked(plain) != plain:
            self.config = OmegaConf.create(masked(plain))

    def sweep(self, arguments: list[str]) -> Any:
        """Sweep as Hydra does; raises `UserError` as `check_ranges` does."""
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        check_ranges(parser.parse_overrides([*self._parse_config(), *arguments]))
        return super().sweep(arguments)

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Do nothing: the launcher composes every job."""
