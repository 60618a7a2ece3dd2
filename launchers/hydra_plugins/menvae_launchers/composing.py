"""Composition of the jobs of a sweep: only once for all jobs with the same group options, which differ in values."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException


class Composer:
    """Composes jobs as Hydra does, but applies value overrides to a copy of an already composed configuration."""

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        """Args: loader: Hydra's configuration loader. master: the configuration of the sweep."""
        self._loader, self._master = loader, master
        self._parser = OverridesParser.create(config_loader=loader)
        self._by_choices: dict[tuple[str, ...], DictConfig | None] = {}
        self._is_value: dict[str, bool] = {}

    def __call__(self, overrides: Sequence[str], number: int) -> dict[str, Any]:
        """Return the resolved configuration of a job, without the ``hydra`` section.

        Args:
            overrides: overrides of the job.
            number: number of the job.
        """
        composed = self._quickly(overrides)
        if composed is None:
            composed = self._loader.load_sweep_config(self._master, list(overrides))
            with open_dict(composed):
                composed.hydra.job.num, composed.hydra.job.id = number, str(number)
        container = OmegaConf.to_container(composed, resolve=True)
        assert isinstance(container, dict)
        return {str(key): value for key, value in container.items() if key != "hydra"}

    def _quickly(self, overrides: Sequence[str]) -> DictConfig | None:
        """Return what Hydra would compose, or None if Hydra itself must do it, for instance to report an error."""
        if any("${hydra" in text for text in overrides):
            return None
        parsed = self._parser.parse_overrides(list(overrides))
        choices = tuple(text for text, one in zip(overrides, parsed, strict=True) if not self._sets_value(one))
        try:
            if choices not in self._by_choices:
                self._by_choices[choices] = self._base(choices)
            base = self._by_choices[choices]
            if base is None:
                return None
            composed = copy.deepcopy(base)
            for one in parsed:
                if self._sets_value(one):
                    OmegaConf.update(composed, one.key_or_group, one.value(), merge=True)
        except (HydraException, OmegaConfBaseException):
            return None
        return composed

    def _sets_value(self, override: Override) -> bool:
        """Return whether an override changes a value, not the composition, of a configuration."""
        if override.is_add() or override.is_delete() or override.package is not None:
            return False
        key = override.key_or_group
        if key not in self._is_value:
            self._is_value[key] = not self._loader.get_group_options(key) and not key.startswith("hydra")
        return self._is_value[key]

    def _base(self, choices: Sequence[str]) -> DictConfig | None:
        """Compose group choices without ``hydra``; None if a key refers to ``hydra``, which differs between jobs."""
        base = self._loader.load_sweep_config(self._master, list(choices))
        with open_dict(base):
            del base["hydra"]
        return None if "${hydra" in OmegaConf.to_yaml(base) else base
