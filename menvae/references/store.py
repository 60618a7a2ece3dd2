"""References on disk: ``<output_dir>/references/<kind>_<key>/`` with ``references.json`` and the weights.

The key is a hash of everything that the reference depends on, so that an entry never has to be replaced. Entries appear
at once and complete; if two processes compute the same one, the first to finish writes it. An entry that is damaged is
reported and counts as missing.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from menvae.data.digests import checksum, digest_of
from menvae.files import DamagedFileError, discard_folder, new_folder, read_json, write_json
from menvae.references.readings import Readings

_log = logging.getLogger(__name__)

FOLDER = "references"
"""Folder of all references in the output directory."""
VERSIONS: Mapping[str, int] = MappingProxyType({"floor": 3, "ceiling": 2, "segmented": 2})
"""Part of every key; it changes with the way in which references of this kind are computed."""

_FILE, _WEIGHTS = "references.json", "weights.pt"
_TYPES: Mapping[str, type] = {"targets": list, "values": dict, "facts": dict, "weights": dict, "checksum": int}

Weights = Mapping[str, Tensor]


def key_of(kind: str, identity: Mapping[str, object]) -> str:
    """Return the key of a reference, as 16 hexadecimal digits.

    Args:
        kind: ``floor``, ``ceiling`` or ``segmented``.
        identity: everything that the reference depends on, JSON-serialisable.
    """
    return digest_of([VERSIONS[kind], kind, identity])[:16]


class ReferenceStore:
    """The references of an output directory."""

    def __init__(self, output_dir: Path) -> None:
        """Args: output_dir: output directory; its folder of references may not exist yet."""
        self._root = output_dir / FOLDER

    def folder(self, kind: str, identity: Mapping[str, object]) -> Path:
        """Return the folder of a reference, which may not exist."""
        return self._root / f"{kind}_{key_of(kind, identity)}"

    def load(self, kind: str, identity: Mapping[str, object]) -> Readings | None:
        """Return a reference, or None if it does not exist or, with a warning, if it is damaged."""
        folder = self.folder(kind, identity)
        try:
            content = _content(folder)
            if content is None:
                return None
            _weights(folder, content)
        except DamagedFileError as error:
            _log.warning("%s; references=true computes it again", error)
            return None
        return Readings(tuple(content["targets"]), content["values"], content["facts"])

    def load_weights(self, kind: str, identity: Mapping[str, object], device: torch.device) -> Weights:
        """Return the weights of a reference that `load` has returned.

        Raises:
            DamagedFileError: they have been damaged since.
        """
        folder = self.folder(kind, identity)
        content = _content(folder)
        packed = None if content is None else _weights(folder, content)
        if packed is None:
            raise DamagedFileError(f"'{folder}' is damaged: it has no weights")
        weights: Weights = torch.load(io.BytesIO(packed), map_location=device, weights_only=True)
        return weights

    def save(
        self, kind: str, identity: Mapping[str, object], readings: Readings, weights: Weights | None = None
    ) -> None:
        """Write a reference; one that exists is kept unless it is damaged.

        Args:
            kind: ``floor``, ``ceiling`` or ``segmented``.
            identity: everything that it depends on.
            readings: what it reads; finite.
            weights: weights of its network, if it has one.
        """
        folder = self.folder(kind, identity)
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists() and self.load(kind, identity) is None:
            discard_folder(folder)
        packed = {} if weights is None else {_WEIGHTS: _packed(weights)}
        content: dict[str, Any] = {
            "kind": kind,
            "version": VERSIONS[kind],
            "identity": identity,
            "targets": list(readings.targets),
            "facts": readings.facts,
            "values": readings.values,
            "weights": {name: {"bytes": len(data), "checksum": checksum(data)} for name, data in packed.items()},
        }
        content = json.loads(json.dumps(content))  # as it will be read
        with new_folder(folder) as unfinished:
            for name, data in packed.items():
                (unfinished / name).write_bytes(data)
            write_json(unfinished / _FILE, {**content, "checksum": _checksum(content)})


def _packed(weights: Weights) -> bytes:
    buffer = io.BytesIO()
    torch.save({name: tensor.detach().cpu() for name, tensor in weights.items()}, buffer)
    return buffer.getvalue()


def _checksum(content: Mapping[str, Any]) -> int:
    kept = {name: value for name, value in content.items() if name != "checksum"}
    return checksum(json.dumps(kept, sort_keys=True).encode())


def _content(folder: Path) -> dict[str, Any] | None:
    """Return the content of ``references.json``, or None without the folder."""
    if not folder.exists():
        return None
    path = folder / _FILE
    content = read_json(path, _TYPES)
    if not content:
        raise DamagedFileError(f"'{folder}' is damaged: it has no {_FILE}")
    if content["checksum"] != _checksum(content):
        raise DamagedFileError(f"'{path}' is damaged: its checksum is wrong")
    return content


def _weights(folder: Path, content: Mapping[str, Any]) -> bytes | None:
    """Return the file of the weights, checked; None for a reference without any."""
    for name, wanted in content["weights"].items():
        try:
            packed: bytes = (folder / name).read_bytes()
        except FileNotFoundError:
            raise DamagedFileError(f"'{folder}' is damaged: it has no {name}") from None
        if len(packed) != wanted["bytes"] or checksum(packed) != wanted["checksum"]:
            raise DamagedFileError(f"'{folder / name}' is damaged: its checksum is wrong")
        return packed
    return None
