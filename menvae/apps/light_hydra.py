"""What Hydra does slowly at every start of a command, done faster with the same result.

Hydra copies its whole configuration store for every group that help or completion lists; composes everything before it
prints a help text that needs one file; composes a run twice, once to learn ``hydra.mode``, once to train; and collects
all choices at every file for interpolations that few files have.
"""

from __future__ import annotations

import copy
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from hydra._internal import defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository, IConfigRepository
from hydra._internal.hydra import Hydra
from hydra.core.config_loader import ConfigLoader
from hydra.core.default_element import GroupDefault, InputDefault
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

_HELP = "hydra/help"
_MODES = {f"hydra.mode={mode.name}": mode for mode in RunMode}
"""What Hydra adds to the overrides of a run or a sweep -> the mode."""

_choices_so_far = defaults_list._create_interpolation_map


def install() -> None:
    """Make Hydra collect the choices so far only for a defaults list with an interpolation."""
    defaults_list._create_interpolation_map = _choices_if_needed  # type: ignore[assignment]


def _choices_if_needed(overrides: defaults_list.Overrides, found: list[InputDefault], self_added: bool) -> DictConfig:
    if any(default.is_interpolation() for default in found if not default.is_self()):
        return _choices_so_far(overrides, found, self_added)
    return OmegaConf.create()


class LightRepository(CachingConfigRepository):
    """Hydra's cache of read files, on a shallow copy of its list of sources, which is replaced but never changed."""

    def __init__(self, delegate: IConfigRepository) -> None:
        self.delegate = copy.copy(delegate)
        self.cache = {}


class LightLoader(ConfigLoaderImpl):
    """Hydra's loader with a `LightRepository`, and with one composition for ``hydra.mode`` and the run itself.

    Attributes:
        composed_last: what it has composed last, or None.
        repository_of_last: what it has read files from last, or None.
    """

    composed_last: DictConfig | None = None
    repository_of_last: LightRepository | None = None
    _of_mode: tuple[str | None, list[str], DictConfig] | None = None

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """Compose as Hydra does; the composition for the mode serves the run too, which only adds the mode."""
        known, self._of_mode = self._of_mode, None
        if known is not None and validate_sweep_overrides and config_name == known[0]:
            added = overrides[len(known[1]) :] if overrides[: len(known[1])] == known[1] else [""]
            if all(text in _MODES for text in added):
                parsed = OverridesParser.create().parse_overrides(overrides=overrides)
                self.validate_sweep_overrides_legal(overrides=parsed, run_mode=run_mode, from_shell=from_shell)
                for text in added:
                    known[2].hydra.mode = _MODES[text]
                    known[2].hydra.overrides.hydra.append(text)
                return known[2]
        composed = super().load_configuration(config_name, overrides, run_mode, from_shell, validate_sweep_overrides)
        self.composed_last = composed
        chosen = composed.hydra.runtime.choices
        is_complete = not any(OmegaConf.is_missing(chosen, key) for key in chosen)  # Hydra refuses it in a single run
        if not validate_sweep_overrides and is_complete:  # which it does only to learn the mode
            self._of_mode = (config_name, list(overrides), composed)
        return composed

    def get_group_options(
        self,
        group_name: str,
        results_filter: ObjectType | None = ObjectType.CONFIG,
        config_name: str | None = None,
        overrides: list[str] | None = None,
    ) -> list[str]:
        """Return the options of a group; without a configuration and overrides, the search path stays as it is."""
        if config_name is None and not overrides:
            return self.repository.get_group_options(group_name, results_filter)
        return super().get_group_options(group_name, results_filter, config_name, overrides)

    def _parse_overrides_and_create_caching_repo(
        self, config_name: str | None, overrides: list[str]
    ) -> tuple[list[Override], CachingConfigRepository]:
        parsed = OverridesParser.create().parse_overrides(overrides=overrides)
        self.repository_of_last = repository = LightRepository(self.repository)
        self._process_config_searchpath(config_name, parsed, repository)
        return parsed, repository


class LightHydra(Hydra):
    """Hydra, which composes nothing to print the help of a command without overrides."""

    def __init__(self, task_name: str, config_loader: ConfigLoader) -> None:
        super().__init__(task_name, config_loader)
        self._groups: dict[str, Sequence[str]] = {}

    def app_help(self, config_name: str | None, args_parser: ArgumentParser, args: Namespace) -> None:
        """Print the help text."""
        help_of_file = None if args.overrides or args.config_dir or args.resolve else self._help_of(config_name)
        if help_of_file is None:
            super().app_help(config_name, args_parser, args)
        else:
            print(self.get_help(help_of_file, OmegaConf.create(), args_parser, resolve=False))  # noqa: T201

    def list_all_config_groups(self, parent: str = "") -> Sequence[str]:
        """Return the groups, which Hydra asks for once for its own and once for those of the application."""
        if parent not in self._groups:
            self._groups[parent] = super().list_all_config_groups(parent)
        return self._groups[parent]

    def _help_of(self, config_name: str | None) -> DictConfig | None:
        """Return ``hydra.help``, if the primary configuration chooses its file and nothing else can set it."""
        loader = self.config_loader
        assert isinstance(loader, LightLoader)
        primary = loader.repository.load_config(config_name) if config_name else None
        if primary is None or OmegaConf.select(primary.config, "hydra.help") is not None:
            return None
        chosen = [
            default.value
            for default in primary.defaults_list or ()
            if isinstance(default, GroupDefault) and default.override and default.group == _HELP
        ]
        found = loader.repository.load_config(f"{_HELP}/{chosen[0]}") if len(chosen) == 1 else None
        if found is None or "$CONFIG" in OmegaConf.to_yaml(found.config):
            return None
        section: DictConfig = OmegaConf.create({"hydra": {"help": found.config}}).hydra.help
        return section
