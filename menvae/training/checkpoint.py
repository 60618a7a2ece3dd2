"""Checkpoints: written atomically and read without executing code."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

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


def check_identity(content: Mapping[str, Any], expected: Mapping[str, str], what: str) -> None:
    """Compare what a checkpoint was trained on with a configuration.

    Args:
        content: output of `load`.
        expected: entries of the identity that must be equal.
        what: name of the checkpoint, for the message.

    Raises:
        UserError: the first difference.
    """
    for key, mine in expected.items():
        theirs = content["identity"].get(key)
        if theirs != mine:
            raise UserError(f"{what} was trained with {key} {theirs}, but this configuration has {mine}")


def load_weights(content: Mapping[str, Any], path: Path, model: nn.Module, objective: nn.Module) -> None:
    """Load the weights and buffers of a checkpoint into a model and its objective.

    Args:
        content: output of `load`.
        path: path of the checkpoint, for messages.
        model: model of the same architecture.
        objective: objective with the same terms.

    Raises:
        UserError: the weights do not fit the model or the objective.
    """
    try:
        model.load_state_dict(content["model"])
        objective.load_state_dict(content["objective"])
    except RuntimeError as error:
        detail = str(error).splitlines()[-1].strip()
        raise UserError(f"checkpoint '{path}' does not fit this model: {detail}") from error


def without_optimizer(path: Path) -> None:
    """Remove the optimiser's state, two thirds of the file, from a checkpoint if present."""
    content = load(path, torch.device("cpu"))
    if content.pop("optimizer", None) is not None:
        save(path, content)
