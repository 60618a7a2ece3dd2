"""No configuration file makes Hydra import or call what it names.

The parts of menvae are looked up by name (`menvae.registry`). Hydra itself calls import paths in three places of its
own section: callbacks, ``_target_``, and logging. They are refused in whatever it composes, before it acts on them.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra._internal import hydra as internals
from omegaconf import DictConfig, OmegaConf

from menvae.apps import light_hydra
from menvae.apps.completed import CompletingHydra
from menvae.apps.launching import check_launcher
from menvae.apps.light_hydra import LightLoader
from menvae.errors import UserError
from menvae.masking import MASK

_PLUGINS = ("hydra_plugins.", "hydra._internal.core_plugins.")
"""Packages of Hydra's plugins. Hydra refuses other ones, and those that are not installed, too."""
_LOG_CLASSES = frozenset({"logging.Formatter", "logging.StreamHandler", "logging.FileHandler", "logging.NullHandler"})
_LOG_STREAMS = frozenset({"ext://sys.stdout", "ext://sys.stderr"})
_MAY_IMPORT = re.compile(r"ext://|cfg://|(?!\$\{hydra\.runtime\.output_dir\}/)[a-z]*:?/*\$\{")
"""Values of a logging configuration that are, or may resolve to, a reference to an object."""
_OF_LAUNCHER = re.compile(
    r"hydra/launcher=[\w-]+|site=[\w-]+|\+{0,2}hydra\.(launcher\.(?!_)\w[\w.]*|job\.env_set\.\w+)=.*", re.DOTALL
)


class GuardedLoader(LightLoader):
    """Hydra's loader, which refuses configurations that name code."""

    def load_configuration(self, config_name: str | None, *args: Any, **kwargs: Any) -> DictConfig:
        """Compose as Hydra does; raises `UserError` as `refuse_code` and `check_launcher` do, and for ``???``."""
        composed = super().load_configuration(config_name, *args, **kwargs)
        if missing := [key for key in composed.hydra if OmegaConf.is_missing(composed.hydra, key)]:
            raise UserError(f"hydra.{missing[0]}: a value is required")
        refuse_code(composed.hydra)
        if config_name == "train":
            check_launcher(composed.hydra)
        return composed


def install() -> None:
    """Make Hydra use `GuardedLoader`; it has no hook between composing and acting on the result."""
    light_hydra.install()
    internals.Hydra = CompletingHydra  # type: ignore[misc]
    internals.ConfigLoaderImpl = GuardedLoader  # type: ignore[misc, attr-defined, unused-ignore]


def refuse_code(section: DictConfig) -> None:
    """Check Hydra's section of a composed configuration.

    Args:
        section: the value of ``hydra``.

    Raises:
        UserError: it has callbacks, names a class that is no Hydra plugin, or logs through code of its choice.
    """
    if OmegaConf.is_interpolation(section, "callbacks") or section.callbacks:
        raise UserError(
            "hydra.callbacks: not allowed, because a configuration file must not choose code to call; write an "
            "observer or a tracker instead"
        )
    for key, value in _entries(section, "hydra", resolve=False):
        _refuse_target(key, value)
    for name in ("launcher", "sweeper"):  # resolved too, because an interpolation may insert a whole section
        for key, value in _entries(section[name], f"hydra.{name}", resolve=True):
            _refuse_target(key, value)
    for name in ("hydra_logging", "job_logging"):  # not resolved, because output_dir is not known yet
        for key, value in _entries(section[name], f"hydra.{name}", resolve=False):
            _refuse_logger(key, value)


def _refuse_target(key: str, value: Any) -> None:
    if not key.endswith("._target_"):
        return
    if key not in ("hydra.launcher._target_", "hydra.sweeper._target_"):
        raise UserError(f"{key}: not allowed, because a configuration file must not choose code to call")
    if not str(value).startswith(_PLUGINS):
        raise UserError(f"{key}: '{value}' is not allowed; choose with {key.split('.')[1]}=<name> in hydra/")


def _refuse_logger(key: str, value: Any) -> None:
    last = key.rpartition(".")[2]
    is_foreign_class = last == "class" and value not in _LOG_CLASSES
    is_foreign_object = isinstance(value, str) and value not in _LOG_STREAMS and bool(_MAY_IMPORT.match(value))
    if last in ("()", "factory") or is_foreign_class or is_foreign_object:
        raise UserError(
            f"{key}: {value!r} is not allowed, because a configuration file must not choose code to call; classes of "
            f"loggers: {', '.join(sorted(_LOG_CLASSES))}"
        )


def _entries(node: Any, path: str, *, resolve: bool) -> Iterator[tuple[str, Any]]:
    """Yield `_leaves` of a section, which may be null."""
    return _leaves(OmegaConf.to_container(node, resolve=resolve) if OmegaConf.is_config(node) else None, path)


def _leaves(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of every entry of a mapping in a nested container, with the mappings themselves."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield f"{path}.{key}", value
            yield from _leaves(value, f"{path}.{key}")
    elif isinstance(node, Sequence) and not isinstance(node, str):
        for index, value in enumerate(node):
            yield from _leaves(value, f"{path}.{index}")


def launcher_overrides(stored: Sequence[str], typed: Sequence[str], source: str, *, is_own: bool = True) -> list[str]:
    """Return the stored overrides of a sweep's launcher that a retry uses.

    Typed ones replace those of the same key, and a typed launcher replaces all.

    Args:
        stored: from ``sweep.json``, which somebody else may have written; those of the sweeper do not matter.
        typed: overrides of the command line, and names of its flags.
        source: path of ``sweep.json``, for messages.
        is_own: whether the file belongs to this user. A launcher runs commands (``hydra.launcher.setup``), so that the
            settings of another user are not used until they are typed.

    Raises:
        UserError: an override is not one of a launcher, its password has been masked, or it is another user's.
    """
    replaced = {text.partition("=")[0].lstrip("+") for text in typed}
    kept, folder_follows = [], False
    for text in stored:
        if folder_follows or text == "--config-dir":
            kept += [text] if "--config-dir" not in replaced else []
            folder_follows = not folder_follows
            continue
        key = text.partition("=")[0].lstrip("+")
        if key in replaced or key == "hydra/sweeper" or key.startswith("hydra.sweeper."):
            continue
        if "hydra/launcher" in replaced and key.startswith(("hydra.launcher.", "site")):
            continue
        if not _OF_LAUNCHER.fullmatch(text):
            raise UserError(f"'{source}' has '{text}', which is no setting of a launcher; remove it, or type {key}=...")
        if MASK in text:
            raise UserError(f"'{source}' keeps no passwords: give {key}=... again")
        kept.append(text)
    if kept and not is_own:
        raise UserError(
            f"'{source}' belongs to another user, and its launcher settings may run commands; check them and type "
            f"them: menvae-sweep retry {shlex.join(kept)}"
        )
    return kept
