"""Finished runs as commands name them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from menvae.configuration import path_of
from menvae.errors import UserError
from menvae.runs.finished import CheckpointName, FinishedRun, load_run

Run = str | Path | FinishedRun


def load_all(
    run: Run | Sequence[Run],
    checkpoint: CheckpointName,
    device: str | torch.device,
    output_dir: str | Path | None,
    tracking_uri: str | None,
) -> list[FinishedRun]:
    """Load one run or several; raises `UserError` if one appears twice."""
    named: Sequence[Run] = [run] if isinstance(run, str | Path | FinishedRun) else list(run)
    loaded = [
        one
        if isinstance(one, FinishedRun)
        else load_run(one, checkpoint=checkpoint, output_dir=output_dir, tracking_uri=tracking_uri, device=device)
        for one in named
    ]
    if not loaded:
        raise UserError("run: a value is required; give it as run=...")
    names = [one.name for one in loaded]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"run: '{name}' appears twice")
    return loaded


def load_named(
    run: str | Sequence[str],
    checkpoint: CheckpointName,
    device: torch.device,
    output_dir: str,
    tracking: Mapping[str, Any],
) -> list[FinishedRun]:
    """Load the runs of a command by its keys; those that are directories bring their own output directory.

    Args:
        run: directories, names or MLflow ids.
        checkpoint: ``best`` or ``last``.
        device: device of the models.
        output_dir: key ``output_dir``, for names and ids.
        tracking: section ``tracking``.
    """
    named = [run] if isinstance(run, str) else list(run)
    folder = path_of(output_dir, "output_dir").resolve()
    are_directories = all(Path(name).expanduser().is_dir() for name in named)
    return load_all(named, checkpoint, device, None if are_directories else folder, tracking.get("uri"))


def usable_device(wanted: str | None) -> torch.device:
    """Return a device by name, or the first GPU, else the CPU; raises `UserError` if it cannot be used."""
    if wanted is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device: '{wanted}' cannot be used: {str(error).splitlines()[0]}") from None
    return device
