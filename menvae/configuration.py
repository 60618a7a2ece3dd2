"""First checks of a composed configuration, common to all commands."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from menvae.errors import UserError, nearest

_MAX_NAME_BYTES = 150  # a file system allows 255, and hashes, swept keys and numbers follow


def plain_values(composed: DictConfig, known: Collection[str]) -> dict[str, Any]:
    """Resolve a composed configuration to plain values.

    Args:
        composed: configuration composed by Hydra.
        known: allowed top-level keys.

    Raises:
        UserError: a required value is missing, a top-level key is unknown, or an integer exceeds 64 bits.
    """
    missing = sorted(OmegaConf.missing_keys(composed))
    if missing:
        raise UserError(f"{missing[0]}: a value is required; give it as {missing[0]}=...")
    config = cast(dict[str, Any], OmegaConf.to_container(composed, resolve=True))
    check_known(config, known)
    _check_integers(config, "")
    return config


def check_known(config: Mapping[str, Any], known: Collection[str]) -> None:
    """Check that a configuration has no other top-level keys than the known ones; raises `UserError`."""
    for key in config:
        if key not in known:
            raise UserError(f"{key}: no such key; {nearest(key, known)}")


def check_present(config: Mapping[str, Any], keys: Iterable[str]) -> None:
    """Check that a configuration has its keys; raises `UserError` for one that an override has removed."""
    for key in keys:
        if key not in config:
            raise UserError(f"{key}: a value is required; an override such as ~{key} or {key}=[] removes it")


def section_of(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return a section of a configuration; raises `UserError` if an override has removed or replaced it."""
    check_present(config, (key,))
    section = config[key]
    if not isinstance(section, Mapping):
        raise UserError(f"{key}: {section!r} is not allowed; set its keys, {key}.<key>=...")
    return section


def _check_integers(node: object, path: str) -> None:
    """Check that every integer fits into 64 bits, as torch and NumPy need it; raises `UserError`."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            _check_integers(value, f"{path}.{key}".removeprefix("."))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            _check_integers(value, f"{path}.{index}")
    elif isinstance(node, int) and not -(2**63) <= node < 2**63:
        raise UserError(f"{path}: {node} is not allowed; it does not fit into 64 bits")


def path_of(value: object, key: str) -> Path:
    """Return a path that a user gave, with ``~`` expanded.

    Args:
        value: the path as text.
        key: its configuration key.

    Raises:
        UserError: it is not a path, or the home directory of an unknown user.
    """
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        raise UserError(f"{key}: {value!r} is not allowed; it should be a path")
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise UserError(
            f"{key}: '{value}' names the home directory of an unknown user; write ./~ for a folder"
        ) from None


def check_writable(output_dir: Path) -> None:
    """Create the output directory and check that it is writable.

    Raises:
        UserError: it cannot be created or written to.
    """
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output_dir):
            pass
    except OSError as error:
        raise UserError(f"output_dir: cannot write to '{output_dir}': {error.strerror}") from error


def check_folder_name(key: str, value: object) -> None:
    """Check a name that becomes part of the name of a folder.

    Args:
        key: dotted key of the value.
        value: the name.

    Raises:
        UserError: the folder would lie elsewhere, or cannot exist.
    """
    text = str(value)
    fits = text.isprintable() and 0 < len(text.encode()) <= _MAX_NAME_BYTES  # bytes that are no text cannot be encoded
    wrong_type = value is None or isinstance(value, Mapping | list)
    if wrong_type or not fits or text in (".", "..") or "/" in text:
        raise UserError(
            f"{key}: {value!r} is not allowed; it names a folder, with 1 to {_MAX_NAME_BYTES} letters, digits or other "
            "characters, but without /"
        )
