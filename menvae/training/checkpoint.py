"""Checkpoints: written atomically, read without executing code, and checked.

A checkpoint is a zip archive, of which `torch.save` writes a CRC-32 for each record. `torch.load` does not compare them
and would make another weight of a flipped bit; `load` does.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor, nn

from menvae.errors import UserError
from menvae.files import DamagedFileError, replacing
from menvae.training.state import TrainingState

FORMAT = 1
_NESTED = ("model", "objective", "optimizer", "scaler", "begun_epoch")
_STATE_TYPES: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,)}


class _Target:
    """A file that keeps the first error of writing to it, which `torch.save` replaces by one of its own."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, content: bytes) -> int:
        try:
            return self._file.write(content)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        self._file.flush()


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values to ``path`` atomically: a killed process leaves the old file or the new one.

    Raises:
        OSError: the file cannot be written, for example because the disk is full; nothing is left of it.
    """
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as file:
        target = _Target(file)
        try:
            torch.save({"format": FORMAT, **content}, cast(IO[bytes], target))
        except RuntimeError:
            if target.error is not None:
                raise target.error from None
            raise


def load(path: Path, device: torch.device) -> dict[str, Any]:
    """Read a checkpoint of tensors and plain types onto ``device``.

    Raises:
        UserError: the file does not exist, is damaged, is not a checkpoint, or has another format.
    """
    if not path.is_file():
        raise UserError(f"checkpoint '{path}' does not exist")
    _check_records(path)
    try:
        content: Any = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        raise UserError(f"'{path}' is not a menvae checkpoint: {_first_line(error)}") from error
    version = content.pop("format", None) if isinstance(content, dict) else None
    if not isinstance(version, int) or version != FORMAT:
        raise UserError(f"checkpoint '{path}' does not have the format that this version of menvae reads ({FORMAT})")
    checked: dict[str, Any] = content
    _check_form(path, checked)
    return checked


def _check_records(path: Path) -> None:
    """Compare the records of an archive with their CRC-32."""
    try:
        is_archive = zipfile.is_zipfile(path)
    except zipfile.BadZipFile as error:  # the directory at its end names several disks
        raise DamagedFileError(f"checkpoint '{path}' is damaged: {_first_line(error)}") from None
    if not is_archive:
        raise DamagedFileError(f"'{path}' is not a menvae checkpoint: it is no zip archive, or only a part of one")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError, zlib.error) as error:
        raise DamagedFileError(f"checkpoint '{path}' is damaged: {_first_line(error)}") from None
    if damaged is not None:
        raise DamagedFileError(f"checkpoint '{path}' is damaged: the checksum of its record '{damaged}' is wrong")


def _check_form(path: Path, content: Mapping[str, Any]) -> None:
    """Check that a checkpoint has the parts that every version writes, and that they have their types."""
    with damage_reported(path):
        identity, state = content["identity"], content["state"]
        if not all(isinstance(value, str) for value in identity.values()):
            raise TypeError("its 'identity' holds something else than text")
        if state.keys() != {one.name for one in fields(TrainingState)}:
            raise KeyError("state")
        for one in fields(TrainingState):
            value, kinds = state[one.name], _STATE_TYPES[str(one.type)]
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                raise TypeError(f"its 'state.{one.name}' is {str(value)[:60]!r}")
        if state["epoch"] < 0 or state["step"] < 0 or state["best_epoch"] < 0:
            raise ValueError("its 'state' is negative")
        for name in ("model", "objective"):
            if not all(isinstance(value, Tensor) for value in content[name].values()):
                raise TypeError(f"its '{name}' holds something else than tensors")
        for name in _NESTED:
            if not isinstance(content.get(name, {}), dict):
                raise TypeError(f"its '{name}' is no mapping")


@contextmanager
def damage_reported(path: Path) -> Iterator[None]:
    """Raise `DamagedFileError` where the content of a checkpoint lacks a key or has another type than menvae writes."""
    try:
        yield
    except UserError:
        raise
    except KeyError as error:
        raise DamagedFileError(f"checkpoint '{path}' is damaged: it lacks {error}") from error
    except (TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        raise DamagedFileError(f"checkpoint '{path}' is damaged: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


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
