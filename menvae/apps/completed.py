"""What Hydra has composed for a completion or written as help, kept for `menvae.apps.completion`."""

from __future__ import annotations

import io
import os
import re
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple, cast

from hydra.core.object_type import ObjectType
from hydra.plugins.completion_plugin import CompletionPlugin
from omegaconf import Container, DictConfig, ListConfig, Node, OmegaConf

from menvae.apps import completion
from menvae.apps.light_hydra import LightHydra, LightLoader, LightRepository
from menvae.groups import ENTRY_POINT_GROUP, places_of

_MAX_COMPOSITIONS = 16
_OF_THIS_PROCESS = ("hydra.env", "hydra.job", "hydra.overrides", "hydra.runtime")
"""Sections that depend on more than files: on the environment and the working directory."""


class CompletingHydra(LightHydra):
    """Hydra, which keeps what later completions and requests for help can be answered from without it."""

    def app_help(self, config_name: str | None, args_parser: ArgumentParser, args: Namespace) -> None:
        """Print the help text."""
        places = Places.now() if completion.asks_for_help() else None
        written = io.StringIO()
        with redirect_stdout(written):
            super().app_help(config_name, args_parser, args)
        sys.stdout.write(written.getvalue())
        if config_name is not None and places is not None:
            assert isinstance(self.config_loader, LightLoader)
            remember_help(config_name, written.getvalue(), self.config_loader, places)

    def shell_completion(self, config_name: str | None, overrides: list[str]) -> None:
        """Answer a shell."""
        line = completion.Line.read(os.environ.get("COMP_LINE", "")) if overrides == [completion.QUERY] else None
        places = Places.now() if line else None
        super().shell_completion(config_name, overrides)
        if config_name is not None and line is not None and places is not None:
            assert isinstance(self.config_loader, LightLoader)
            remember(config_name, line, self.config_loader, places)


class Places(NamedTuple):
    """What completions depend on; see `completion.state`."""

    code: list[str]
    configurations: list[str]
    state: str

    @classmethod
    def now(cls) -> Places | None:
        """Return those of this process; None if a folder cannot be read."""
        plugins = sorted(_plugins())
        packages = [place for package in ("hydra_plugins", "menvae", *plugins) for place in places_of(package)]
        code = [str(place) for place in packages]
        beside = [Path(__file__).resolve().parents[2] / "conf"]
        configurations = [str(place) for place in (*beside, *(place / "conf" for place in packages))]
        with suppress(OSError):
            return cls(code, configurations, completion.state(code, configurations))
        return None


def remember(config_name: str, line: completion.Line, loader: LightLoader, places: Places) -> None:
    """Keep the options of all groups, and the keys of the composition that a loader has made last, if it has made one.

    Nothing is kept if it depends on more than the files of menvae and of its plugins.

    Args:
        config_name: name of the command's file in ``conf/``.
        line: the line that has been completed.
        loader: has just composed for it.
        places: as they were before it did.
    """
    repository = loader.repository_of_last
    if repository is None or not _is_of_files(repository):
        return
    known, is_kept = _known(config_name, repository, places)
    if loader.composed_last is not None and line.before not in known["compositions"]:
        is_kept = False
        compositions = {line.before: _keys(loader.composed_last), **known["compositions"]}
        known["compositions"] = dict(list(compositions.items())[:_MAX_COMPOSITIONS])
    if not is_kept:
        _keep(config_name, known)


def remember_help(config_name: str, text: str, loader: LightLoader, places: Places) -> None:
    """Keep the help of a command, unless it depends on more than the files of menvae and of its plugins.

    Args:
        config_name: name of the command's file in ``conf/``.
        text: as Hydra writes it.
        loader: has just read the configuration files.
        places: as they were before it did.
    """
    repository = LightRepository(loader.repository)
    if _is_of_files(repository):
        known, _ = _known(config_name, repository, places)
        _keep(config_name, {**known, "help": text})


def _known(config_name: str, repository: LightRepository, places: Places) -> tuple[dict[str, Any], bool]:
    """Return what is known of a command, without what has changed since, and whether it is all kept already."""
    known = completion.kept(config_name)
    if known is None or known["state"] != places.state:
        return {**places._asdict(), **_groups(repository), "compositions": {}}, False
    return known, True


def _keep(config_name: str, known: dict[str, Any]) -> None:
    from menvae.files import write_json

    with suppress(OSError, RuntimeError):  # no home, a full disk: the next one composes again
        file = completion.file_of(config_name)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, known, private=True)  # a line may hold a password


def _plugins() -> set[str]:
    return {point.module.partition(".")[0] for point in entry_points(group=ENTRY_POINT_GROUP)}


def _is_of_files(repository: LightRepository) -> bool:
    """Return whether a search path is that of menvae and of its plugins, and no defaults depend on the environment."""
    own = {"hydra", "main", "schema", *_plugins()}
    defaults = (
        default for result in repository.cache.values() if result is not None for default in result.defaults_list or ()
    )
    has_interpolation = any("${" in str(vars(default)) for default in defaults)
    return {source.provider for source in repository.get_sources()} <= own and not has_interpolation


def _groups(repository: LightRepository) -> dict[str, Any]:
    """Return {group: options}, and {group: its groups with what Hydra adds to each}."""
    options: dict[str, list[str]] = {}
    groups: dict[str, list[tuple[str, str]]] = {}

    def walk(group: str) -> None:
        groups[group] = []
        for name in repository.get_group_options(group, ObjectType.GROUP):
            path = f"{group}/{name}" if group else name
            options[path] = repository.get_group_options(path, ObjectType.CONFIG)
            walk(path)
            ending = ("" if options[path] else "/") if groups[path] else ("=" if options[path] else "")
            groups[group].append((name, ending))

    walk("")
    return {"options": options, "groups": groups}


def _keys(composed: DictConfig) -> dict[str, Any]:
    """Return {section: its keys as Hydra completes them}, and {key: its values as Hydra completes them}."""
    children: dict[str, list[str]] = {}
    values: dict[str, list[str]] = {}
    for path, node in _sections(composed, ""):
        children[path] = CompletionPlugin._get_matches(node, "")
        for key, value in _plain_entries(node):
            name = f"{path}.{key}" if path else key
            if not OmegaConf.is_config(value) and not name.startswith("hydra."):
                values[name] = _completed(value)
    return {"children": children, "values": values}


def _sections(node: Container, path: str) -> Iterator[tuple[str, Container]]:
    """Yield (dotted path, mapping or list) without those that Hydra alone can tell."""
    if path in _OF_THIS_PROCESS or node._is_none() or node._is_missing() or node._is_interpolation():
        return
    if isinstance(node, ListConfig) and len(_plain_entries(node)) < len(node):  # Hydra resolves entries of lists
        return
    yield path, node
    for key, value in _plain_entries(node):
        if isinstance(value, DictConfig | ListConfig):
            yield from _sections(value, f"{path}.{key}" if path else key)


def _plain_entries(node: Container) -> list[tuple[str, Node]]:
    """Return (key, node) of entries that are no interpolations, and whose key can be a part of a dotted path."""
    names = range(len(node)) if isinstance(node, ListConfig) else list(cast(DictConfig, node).keys())
    nodes = [(name, cast(Node, node._get_node(name))) for name in names]
    is_name = re.compile(r"\d+" if isinstance(node, ListConfig) else r"(?!\d+$)\w+")
    return [
        (str(name), value) for name, value in nodes if is_name.fullmatch(str(name)) and not value._is_interpolation()
    ]


def _completed(value: Node) -> list[str]:
    """Return what Hydra adds to the key of a plain value."""
    if value._is_missing():
        return [""]
    plain = value._value()
    if plain is None:
        return []
    return [str(plain).lower() if isinstance(plain, bool) else str(plain)]
