"""Composing the jobs of a sweep: once for all jobs that differ in values only."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException


class Composer:
    """Composes jobs as Hydra does.

    Hydra first composes the options of all groups, and then sets values in the order in which they are typed. Jobs that
    share everything but values that are set last, without adding or deleting keys, share one composition by Hydra;
    their values are set in a copy of it.

    Args:
        loader: Hydra's loader.
        master: configuration of the sweep.
    """

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        self._loader, self._master = loader, master
        self._parser = OverridesParser.create(config_loader=loader)
        self._bases: dict[tuple[str, ...], DictConfig | None] = {}
        self._is_group: dict[str, bool] = {}

    def __call__(self, overrides: Sequence[str], number: int) -> dict[str, Any]:
        """Return the resolved configuration of a job, without Hydra's own.

        Args:
            overrides: overrides of the job.
            number: number of the job.

        Raises:
            HydraException: an override is invalid.
            OmegaConfBaseException: an interpolation cannot be resolved.
        """
        quick = self._from_base(overrides)
        if quick is not None:
            return quick
        composed = self._loader.load_sweep_config(self._master, list(overrides))
        with open_dict(composed):
            composed.hydra.job.num, composed.hydra.job.id = number, str(number)
        return _resolved(composed)

    def _from_base(self, overrides: Sequence[str]) -> dict[str, Any] | None:
        """Return what Hydra would compose; None where only Hydra knows, for example what is wrong."""
        if any(map(_may_name_hydra, overrides)):
            return None
        parsed = list(zip(overrides, self._parser.parse_overrides(list(overrides)), strict=True))
        ordered = [index for index, (_, one) in enumerate(parsed) if not (self._chooses(one) or self._sets(one))]
        first = ordered[-1] + 1 if ordered else 0
        shared = [text for index, (text, one) in enumerate(parsed) if index < first or self._chooses(one)]
        try:
            base = self._base(tuple(shared))
            if base is None:
                return None
            composed = copy.deepcopy(base)
            for _, one in parsed[first:]:
                if self._sets(one):
                    OmegaConf.update(composed, one.key_or_group, one.value(), merge=True)
            return _resolved(composed)
        except (HydraException, OmegaConfBaseException):
            return None

    def _chooses(self, override: Override) -> bool:
        """Return whether an override chooses the option of a group; where it stands among values does not matter."""
        return self._names_group(override) and (override.is_delete() or isinstance(override.value(), str))

    def _sets(self, override: Override) -> bool:
        """Return whether an override only sets an existing key."""
        adds = override.is_add() or override.is_force_add() or override.is_delete()
        return not (adds or override.package is not None or self._names_group(override))

    def _names_group(self, override: Override) -> bool:
        key = override.key_or_group
        if key not in self._is_group:
            self._is_group[key] = bool(self._loader.get_group_options(key))
        return self._is_group[key]

    def _alike(self) -> DictConfig:
        """Return the composition without overrides: a copy of the sweep's own if that only sets values, else anew."""
        typed = self._parser.parse_overrides(list(self._master.hydra.overrides.task))
        if all(self._sets(one) for one in typed):
            return copy.deepcopy(self._master)
        return self._loader.load_sweep_config(self._master, [])

    def _base(self, overrides: tuple[str, ...]) -> DictConfig | None:
        """Compose without Hydra's own section; None if a key refers to it, because it differs between jobs."""
        if overrides not in self._bases:
            # the configuration of the sweep has the same options; the values that it has too are set again in each job
            base = self._loader.load_sweep_config(self._master, list(overrides)) if overrides else self._alike()
            with open_dict(base):
                del base["hydra"]
            texts = _texts(OmegaConf.to_container(base, resolve=False))
            self._bases[overrides] = None if any(map(_may_name_hydra, texts)) else base
        return self._bases[overrides]


def _resolved(composed: DictConfig) -> dict[str, Any]:
    """Return a configuration as plain values, without Hydra's own section."""
    whole = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(whole, dict)
    return {str(key): value for key, value in whole.items() if key != "hydra"}


def _texts(node: object) -> Iterator[str]:
    """Yield every text in a nested container, keys included."""
    if isinstance(node, Mapping):
        yield from (text for pair in node.items() for part in pair for text in _texts(part))
    elif isinstance(node, Sequence) and not isinstance(node, str):
        yield from (text for item in node for text in _texts(item))
    elif isinstance(node, str):
        yield node


def _may_name_hydra(text: str) -> bool:
    """Return whether a text may refer to Hydra's own section, directly or through a resolver.

    >>> _may_name_hydra("name: job${ hydra.job.num }"), _may_name_hydra("name: ${model.name}")
    (True, False)
    """
    return "${" in text and "hydra" in text
