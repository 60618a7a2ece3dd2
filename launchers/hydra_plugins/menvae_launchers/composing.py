"""Composing the jobs of a sweep: once for all jobs that differ in values only."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

_REFERENCE = re.compile(r"\$\{\s*([A-Za-z_]\w*(?:\.\w+)*)\s*\}")
"""An interpolation that names one key by its whole path, such as ``${model.name}``."""
_WHOLE_NUMBER = re.compile(r"([A-Za-z_][\w.]*)=(0|[1-9]\d*)", re.ASCII)
"""An override whose value Hydra's grammar takes for a whole number, written in the usual way."""
_OF_ENVIRONMENT = re.compile(r"\$\{\s*oc\.env\s*:[^${}]*\}")
"""An interpolation that reads no key."""


class Composer:
    """Composes jobs as Hydra does.

    Hydra first composes the options of all groups, and then sets values in the order in which they are typed. Jobs that
    share everything but values that are set last, without adding or deleting keys, share one composition by Hydra;
    their values are set in what that gives (`_Base`).

    Jobs share sections that they have in common: a configuration must not be changed.

    Args:
        loader: Hydra's loader.
        master: configuration of the sweep.
    """

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        self._loader, self._master = loader, master
        self._parser = OverridesParser.create(config_loader=loader)
        self._bases: dict[tuple[str, ...], _Base | None] = {}
        self._is_group: dict[str, bool] = {}
        self._parsed: dict[str, Override] = {}
        self._with_number: dict[str, Override] = {}  # by key

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
        parsed = [(text, self._parse(text)) for text in overrides]
        ordered = [index for index, (_, one) in enumerate(parsed) if not (self._chooses(one) or self._sets(one))]
        first = ordered[-1] + 1 if ordered else 0
        shared = [text for index, (text, one) in enumerate(parsed) if index < first or self._chooses(one)]
        try:
            base = self._base(tuple(shared))
            return None if base is None else base.with_values([one for _, one in parsed[first:] if self._sets(one)])
        except (HydraException, OmegaConfBaseException):
            return None

    def _parse(self, text: str) -> Override:
        """Parse an override, which many jobs have; Hydra's parser takes longer than all the rest.

        Of a key with thousands of whole numbers, such as the seed, only the first is parsed.
        """
        if text in self._parsed:
            return self._parsed[text]
        number = _WHOLE_NUMBER.fullmatch(text)
        if number and number[1] in self._with_number:
            found = replace(self._with_number[number[1]], _value=int(number[2]), input_line=text)
        else:
            (found,) = self._parser.parse_overrides([text])
        if number and found.value() == int(number[2]):
            self._with_number[number[1]] = found
        self._parsed[text] = found
        return found

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

    def _base(self, overrides: tuple[str, ...]) -> _Base | None:
        """Compose without Hydra's own section; None if a key refers to it, because it differs between jobs."""
        if overrides not in self._bases:
            # the configuration of the sweep has the same options; the values that it has too are set again in each job
            base = self._loader.load_sweep_config(self._master, list(overrides)) if overrides else self._alike()
            with open_dict(base):
                del base["hydra"]
            texts = _texts(OmegaConf.to_container(base, resolve=False))
            self._bases[overrides] = None if any(map(_may_name_hydra, texts)) else _Base(base)
        return self._bases[overrides]


class _Base:
    """What jobs have in common, in which each sets values.

    A plain value of a key that no interpolation refers to is set in the resolved configuration, whose other sections
    stay shared. Other values are set in a copy of the unresolved one, once for all jobs that have them.

    Args:
        composed: configuration without Hydra's own section; it is not changed.
    """

    def __init__(self, composed: DictConfig) -> None:
        self._composed = composed
        self._unresolved = OmegaConf.to_container(composed, resolve=False)
        references = [text for text in _texts(self._unresolved) if "${" in text]
        self._referred = {key for text in references for key in _REFERENCE.findall(text)}
        rests = (_OF_ENVIRONMENT.sub("", _REFERENCE.sub("", text)) for text in references)
        self._is_clear = not any("${" in rest for rest in rests)  # of resolvers and relative keys, which may read any
        self._is_plain: dict[str, bool] = {}
        self._resolved: dict[tuple[str, ...], dict[str, Any]] = {}

    def with_values(self, overrides: Sequence[Override]) -> dict[str, Any]:
        """Return the resolved configuration of a job.

        Args:
            overrides: values of existing keys, in the order in which they are set.

        Raises:
            OmegaConfBaseException: a key does not exist, or an interpolation cannot be resolved.
        """
        later: list[Override] = []
        others: list[Override] = []
        for one in overrides:
            (later if self._may_be_set_later(one) else others).append(one)
        refers = any("${" in text for one in others for text in _texts(one.value()))
        if refers or any(_overlap(one.key_or_group, other.key_or_group) for one in later for other in others):
            later, others = [], list(overrides)  # others depend on those set later, or their order matters
        texts = tuple(one.input_line or "" for one in others)
        if texts not in self._resolved:
            composed = copy.deepcopy(self._composed)
            for one in others:
                OmegaConf.update(composed, one.key_or_group, one.value(), merge=True)
            self._resolved[texts] = _resolved(composed)
        config = dict(self._resolved[texts])
        for one in later:
            _set(config, one.key_or_group.split("."), one.value())
        return config

    def _may_be_set_later(self, override: Override) -> bool:
        """Return whether setting a value in the resolved configuration is the same as resolving after setting it."""
        value = override.value()
        is_plain = value is None or isinstance(value, bool | int | float | str)
        is_special = isinstance(value, str) and ("${" in value or value == "???")
        if not is_plain or is_special:
            return False
        key = override.key_or_group
        if key not in self._is_plain:
            self._is_plain[key] = self._is_clear and self._has_plain_value(key)
        return self._is_plain[key]

    def _has_plain_value(self, key: str) -> bool:
        """Return whether a key exists in a plain section, has a plain value, and no interpolation refers to it."""
        *sections, last = key.split(".")
        node: Any = self._composed
        unresolved: Any = self._unresolved
        for section in sections:
            if not isinstance(unresolved.get(section), dict) or not _is_plain_section(node):
                return False
            node, unresolved = node[section], unresolved[section]
        value = unresolved.get(last, self)
        if not _is_plain_section(node) or not (value is None or isinstance(value, bool | int | float | str)):
            return False
        is_reference = isinstance(value, str) and "${" in value
        return not is_reference and not any(_overlap(key, other) for other in self._referred)


def _is_plain_section(node: Any) -> bool:
    """Return whether the keys of a section have no types, unlike those of a dataclass."""
    return OmegaConf.get_type(node) is dict


def _overlap(key: str, other: str) -> bool:
    """Return whether one of two dotted keys is the other or lies in its section.

    >>> _overlap("data.fold", "data"), _overlap("data.fold", "data.fold"), _overlap("data.fold", "data.folds")
    (True, True, False)
    """
    return f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")


def _set(config: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set a value in a configuration; sections that contain it are replaced, because others share them."""
    *sections, last = path
    for section in sections:
        config[section] = dict(config[section])
        config = config[section]
    config[last] = value


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
