"""What all commands do with a composed configuration first."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from menvae.errors import UserError, nearest


def plain_values(composed: DictConfig, known: Collection[str]) -> dict[str, Any]:
    """Return a composed configuration as plain values, resolved.

    Args:
        composed: by Hydra.
        known: keys of its top level that are allowed.

    Raises:
        UserError: a value that is required and not given, or a key that is not known.
    """
    missing = sorted(OmegaConf.missing_keys(composed))
    if missing:
        raise UserError(f"{missing[0]}: a value is required; give it as {missing[0]}=...")
    config = cast(dict[str, Any], OmegaConf.to_container(composed, resolve=True))
    for key in config:
        if key not in known:
            raise UserError(f"{key}: no such key; {nearest(key, known)}")
    return config


def check_writable(output_dir: Path) -> None:
    """Make the folder for everything that is written.

    Raises:
        UserError: nothing can be written to it.
    """
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output_dir):
            pass
    except OSError as error:
        raise UserError(f"output_dir: nothing can be written to '{output_dir}': {error.strerror}") from error
