"""Checkpoints: written atomically and read without executing code."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from menvae.errors import UserError

FORMAT = 1


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values to ``path`` atomically: a killed process leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        torch.save({"format": FORMAT, **content}, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load(path: Path, device: torch.device) -> dict[str, Any]:
    """Read a checkpoint of tensors and plain types onto ``device``.

    Raises:
        UserError: the file does not exist, is not a checkpoint, or has another format.
    """
    if not path.is_file():
        raise UserError(f"checkpoint '{path}' does not exist")
    try:
        content: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        raise UserError(f"'{path}' is not a menvae checkpoint: {error}") from error
    if content.pop("format", None) != FORMAT:
        raise UserError(f"checkpoint '{path}' does not have the format that this version of menvae reads ({FORMAT})")
    return content


def without_optimizer(path: Path) -> None:
    """Remove the optimiser's state, two thirds of the file, from a checkpoint if present."""
    content = load(path, torch.device("cpu"))
    if content.pop("optimizer", None) is not None:
        save(path, content)
