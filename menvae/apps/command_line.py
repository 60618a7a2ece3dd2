"""Hydra's command lines: values in its grammar, and what it refuses with a bug or with a message that misleads."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from menvae.errors import UserError

_GLOBAL = ("experiment",)
"""Groups whose options set keys of any section."""

_MAKES_FOLDERS = (  # modules that create Hydra's folders
    "hydra.core.utils",
    "hydra_plugins.menvae_launchers.points_sweeper",
)


@contextmanager
def composing(arguments: Sequence[str], groups: Callable[[], Sequence[str]]) -> Iterator[None]:
    """Turn exceptions that Hydra itself raises while it reads a command line into `UserError`.

    Args:
        arguments: the command line, without the program.
        groups: returns the names of configuration groups.

    Raises:
        UserError: Hydra raised something other than its own exceptions, such as a `ValueError` for ``encoder=3``, or
            refuses a key of a sweep that only the swept options have.
    """
    try:
        yield
    except HydraException as error:
        if remedy := _without_default_key(error, arguments, groups()):
            raise UserError(remedy) from None  # a cause would be reported instead
        raise
    except (OmegaConfBaseException, yaml.YAMLError):  # `menvae.apps.outcome` knows these
        raise
    except OSError as error:
        if _last_caller(error) not in _MAKES_FOLDERS or error.filename is None:
            raise
        keys = (argument.partition("=")[0].lstrip("+") for argument in arguments)
        typed = next((key for key in keys if key.startswith(("hydra.run.", "hydra.sweep."))), "")
        hint = f"; menvae does not need {typed}: leave it out" if typed else ""
        raise UserError(f"'{error.filename}': {error.strerror}{hint}") from error
    except Exception as error:
        if not _is_of_hydra(error):
            raise
        if remedy := _key_of_list(error, arguments):
            raise UserError(remedy) from error
        known = groups()
        for override in _parsed(arguments):
            values = list(override.sweep_iterator()) if override.is_discrete_sweep() else [override.value()]
            group = override.key_or_group
            wrong = [value for value in values if not _may_be_option(value)]
            wrong += [None] if None in values and "NoneType" in str(error) else []
            if group in known and wrong:
                first = "null" if wrong[0] is None else wrong[0]
                raise UserError(
                    f"{group}: {first} is not an option; give the name of a file in conf/{group}, in quotes if it is a "
                    "number"
                ) from error
        what = str(error) or type(error).__name__
        raise UserError(f"the command line cannot be composed: {what}") from error


def _without_default_key(error: Exception, arguments: Sequence[str], known: Sequence[str]) -> str:
    """Return what to type if a sweep over a group sets a key that only the swept options have; else nothing.

    Hydra composes such a sweep first with the default option of the group, which lacks the key.

    Args:
        error: Hydra's error.
        arguments: the command line.
        known: names of configuration groups.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ConfigAttributeError | ConfigKeyError):
        cause = cause.__cause__ or cause.__context__
    if cause is None or "." not in str(cause.full_key) or not {"-m", "--multirun"} & set(arguments):  # top: a typo
        return ""
    keys = [argument.partition("=")[0] for argument in arguments]
    swept = [key.lstrip("+") for key, text in zip(keys, arguments, strict=True) if "," in text]
    groups = [key for key in swept if key.partition("@")[0] in known and _sets(key, str(cause.full_key))]
    typed = [text for key, text in zip(keys, arguments, strict=True) if f"{key}.".startswith(f"{cause.full_key}.")]
    if not groups or not typed:
        return ""
    return (
        f"{typed[0].partition('=')[0]}: only options of {groups[0]} can have this key, and Hydra checks fixed values "
        f"of a sweep without them; type ++{typed[0]}, which every point then checks"
    )


def _key_of_list(error: Exception, arguments: Sequence[str]) -> str:
    """Return what is wrong if an override names an entry of a list by a word; else nothing.

    Args:
        error: OmegaConf's error.
        arguments: the command line.
    """
    found = re.match(r"(?:invalid literal for int\(\) with base 10:|Index) '(.*?)'", str(error))
    keys = [argument.partition("=")[0].lstrip("+~") for argument in arguments]
    key = next((key for key in keys if found is not None and found[1] in key.split(".")[1:]), "")
    return f"{key}: no such key; a list has entries 0, 1, ..." if key else ""


def _sets(group: str, key: str) -> bool:
    """Return whether options of a group may have a key.

    >>> _sets("loss", "loss.terms.dip"), _sets("schedule@loss.schedules.vol", "loss.schedules.vol.rate")
    (True, True)
    >>> _sets("loss", "data.roi_sise"), _sets("experiment", "data.roi_sise")
    (False, True)
    """
    name, _, package = group.partition("@")
    return name in _GLOBAL or f"{key}.".startswith(f"{package or name}.")


def _is_of_hydra(error: Exception) -> bool:
    """Return whether Hydra raised an error, or OmegaConf while Hydra composed, rather than code that they call."""
    frames = [str(frame.f_globals.get("__name__", "")) for frame, _ in traceback.walk_tb(error.__traceback__)]
    composes = "hydra._internal.config_loader_impl" in frames
    return frames[-1].startswith("hydra.") or (composes and frames[-1].startswith("omegaconf."))


def _last_caller(error: Exception) -> str:
    """Return the module of Hydra, of one of its plugins or of menvae that an error of a file comes from."""
    frames = [str(frame.f_globals.get("__name__", "")) for frame, _ in traceback.walk_tb(error.__traceback__)]
    return next(name for name in reversed(frames) if name.startswith(("hydra.", "hydra_plugins.", "menvae.")))


def _parsed(arguments: Sequence[str]) -> list[Override]:
    overrides = [argument for argument in arguments if not argument.startswith("-")]
    try:
        return OverridesParser.create().parse_overrides(overrides)
    except HydraException:
        return []


def _may_be_option(value: object) -> bool:
    """Return whether a value may name options of a group: a text, several, or null for none."""
    return value is None or isinstance(value, str) or (isinstance(value, list) and all(map(_is_text, value)))


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def hydra_text(value: Any) -> str:
    r"""Return a plain value in the grammar of Hydra's command line.

    >>> hydra_text({"A": "it's 1:00", "B": [1, None, True]})
    "{A: 'it\\'s 1:00', B: [1, null, true]}"
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {hydra_text(item)}' for key, item in value.items())}}}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(map(hydra_text, value))}]"
    if not isinstance(value, str):
        return repr(value)
    escaped = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), value)
    return f"'{escaped}'"
