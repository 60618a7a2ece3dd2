"""The start of a run: its name, and the checkpoints it starts from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from menvae.composition.experiment import Experiment
from menvae.data.source import Data
from menvae.errors import UserError
from menvae.runs.identity import run_hash
from menvae.training.place import Place


def identify(experiment: Experiment, data: Data, num_ranks: int) -> str:
    """Return the name of a run, ``<name>_<hash>``: equal for everything that gives the same result."""
    return run_name(experiment, data.data_hash, data.targets_hash, num_ranks)


def run_name(experiment: Experiment, data_hash: str, targets_hash: str, num_ranks: int) -> str:
    """Return the name of a run from the hashes of its data, which are empty if the data are not known.

    Raises:
        UserError: a checkpoint does not exist.
    """
    parts = (experiment.config, data_hash, targets_hash, num_ranks, _start(experiment))
    return f"{experiment.config['name']}_{run_hash(*parts)}"


def checkpoint_identity(experiment: Experiment, data: Data, here: Place) -> dict[str, str]:
    """Return what a checkpoint must have in common with a run that resumes from it, under names that users know."""
    return {
        **meaning_of_weights(experiment),
        "targets": data.targets_hash,
        "number of ranks": str(here.num_ranks),
    }


def meaning_of_weights(experiment: Experiment) -> dict[str, str]:
    """Return the part of `checkpoint_identity` that is known without the data."""
    supervision = ", ".join(f"{name} [{', '.join(targets)}]" for name, targets in experiment.supervision.items())
    return {
        **experiment.source.identity,
        **({"model.supervision": supervision} if supervision else {}),
        "model.partitions": ", ".join(f"{name} {size}" for name, size in experiment.layout.sizes.items()),
    }


def meaning_for_other_runs(experiment: Experiment) -> list[str]:
    """Return the keys of `checkpoint_identity` in which a run must agree with the run whose weights it starts from."""
    keys = (*sorted(experiment.source.input_identity), "model.partitions", "model.supervision")
    known = meaning_of_weights(experiment)
    return [key for key in keys if key in known]


def foreign_checkpoint(experiment: Experiment) -> Path | None:
    """Return the checkpoint that ``trainer.resume`` names, or None."""
    wish: str = experiment.settings["trainer"].resume
    return None if wish in ("auto", "never") else Path(wish).expanduser()


def initial_weights(experiment: Experiment) -> Path | None:
    """Return the checkpoint that ``trainer.init_from`` names, or None; for a run directory, its ``best.ckpt``."""
    wish: str | None = experiment.settings["trainer"].init_from
    if wish is None:
        return None
    path = Path(wish).expanduser()
    return path / "checkpoints" / "best.ckpt" if path.is_dir() else path


def _start(experiment: Experiment) -> str:
    """Return the digests of the checkpoints that the run starts from: like the seed, they determine the result."""
    resumed, initial = foreign_checkpoint(experiment), initial_weights(experiment)
    if resumed is not None and not resumed.is_file():
        raise UserError(f"trainer.resume: checkpoint '{resumed}' does not exist; use auto, never or an existing file")
    if resumed is None and initial is not None and not initial.is_file():
        raise UserError(f"trainer.init_from: '{initial}' does not exist; give a run directory or a checkpoint")
    of_parts = [path for bound in experiment.parts.values() for path in _checkpoints(bound.settings)]
    digests = []
    for path in filter(None, (resumed or initial, *of_parts)):
        for part in _files(path):
            with part.open("rb") as file:
                digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return " ".join(digests)


def _checkpoints(settings: Mapping[str, Any]) -> Iterator[Path]:
    """Yield the checkpoints that a part and its nested parts name; they exist, because the part has read them."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _checkpoints(value)
        elif key == "checkpoint" and value is not None:
            yield Path(value).expanduser()


def _files(path: Path) -> list[Path]:
    """Return the file itself, or the files in a folder, without hidden ones."""
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
