"""Embeddings: the posterior means of all rows, in one file for further analysis."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from menvae.data.source import Data
from menvae.files import replacing
from menvae.models import Model
from menvae.types import Batch


@torch.no_grad()
def embed(model: Model, batches: Iterable[Batch], device: torch.device) -> NDArray[np.float32]:
    """Return the posterior means of all rows of ``batches``, float32 [N, Z], in order; sets evaluation mode."""
    model.eval()
    there = (batch.to(device) for batch in batches)
    return np.concatenate([model.encode(batch.inputs, batch.available).mean.float().cpu().numpy() for batch in there])


def write_embeddings(path: Path, model: Model, data: Data, device: torch.device) -> None:
    """Write ``embeddings.npz``, without pickle, so that `numpy.load` does not need ``allow_pickle``.

    It contains ``unsup`` [N, Z], or ``semisup`` [N, Z] for a model with a classifier; ``y`` [N], the class index of
    each row, -1 if unknown; ``classes``, their names; ``rows_hash``, which is equal for files of the same rows; and the
    embeddings of the run that ``data.unsup_run`` names, if any.

    Args:
        path: the file.
        model: model that embeds the rows.
        data: data with rows to embed.
        device: device of the model.
    """
    embedded = data.embedded
    assert embedded is not None
    own = "semisup" if model.classifies else "unsup"
    arrays: dict[str, NDArray[Any]] = {own: embed(model, embedded.rows.epoch(0), device), "y": embedded.labels}
    arrays |= {"classes": np.array(data.classes, dtype=np.str_), "rows_hash": np.array(embedded.rows_hash)}
    _write(path, {**embedded.others, **arrays})


def add_others(path: Path, data: Data) -> None:
    """Add the embeddings of another run, if configured, to the file of a run that has already finished."""
    assert data.embedded is not None
    if data.embedded.others and path.is_file():
        with np.load(path) as file:
            own = {name: file[name] for name in file.files}
        _write(path, {**data.embedded.others, **own})


def _write(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    with replacing(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
