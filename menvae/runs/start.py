"""The start of a run: its name, and the checkpoints it starts from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from menvae.composition.experiment import Experiment
from menvae.composition.once import Once
from menvae.configuration import path_of
from menvae.data.source import Data
from menvae.errors import UserError
from menvae.runs.directory import RUNS
from menvae.runs.extension import check_extended_data, check_extension, start_of_extension
from menvae.runs.identity import run_hash
from menvae.tracking.tracker import TrackerContext, TrackingSettings
from menvae.tracking.trackers import Trackers
from menvae.training import checkpoint
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
    return _checkpoint_identity(experiment, data, here.num_ranks)


def _checkpoint_identity(experiment: Experiment, data: Data, num_ranks: int) -> dict[str, str]:
    return {
        **meaning_of_weights(experiment),
        "targets": data.targets_hash,
        "number of ranks": str(num_ranks),
    }


def check_data_of_start(experiment: Experiment, data: Data, num_ranks: int) -> None:
    """Check that the data are those of the run that this one trains on, if any; raises `UserError`."""
    check_extended_data(experiment, data, _checkpoint_identity(experiment, data, num_ranks))


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


def check_start(experiment: Experiment, once: Once | None = None) -> None:
    """Check what a run needs besides its data, before these are loaded: trackers and checkpoints.

    Args:
        experiment: the experiment.
        once: calls what checks the trackers, if it has checked those of others.

    Raises:
        UserError: a tracker cannot use its settings, a checkpoint does not exist, cannot be read or does not fit, or
            the run of ``trainer.extend`` cannot be trained on.
    """
    (once or Once())(_check_trackers, experiment.settings["tracking"], experiment.config["output_dir"])
    resumed, initial = starting_checkpoints(experiment)
    if resumed is not None:
        checkpoint.check_identity(_read_once(resumed), meaning_of_weights(experiment), f"checkpoint '{resumed}'")
    if initial is not None:
        meaning = meaning_of_weights(experiment)
        expected = {key: meaning[key] for key in meaning_for_other_runs(experiment)}
        checkpoint.check_identity(_read_once(initial), expected, f"trainer.init_from: '{initial}'")
    check_extension(experiment)


def _check_trackers(settings: TrackingSettings, output_dir: str) -> None:
    """Build the trackers of a run; raises `UserError` if one cannot use its settings."""
    folder = path_of(output_dir, "output_dir").resolve()
    Trackers.of(TrackerContext(settings=settings, output_dir=folder, run_dir=folder / RUNS, run_name=""))


def _state(path: Path) -> tuple[int, ...]:
    """Return what changes with the content of a file; raises `OSError` if it does not exist."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _read_once(path: Path) -> Mapping[str, Any]:
    """Return what `checkpoint.check_identity` needs; the points of a sweep that start from one file read it once."""
    return {"identity": _identity_in(path, _state(path))}


@lru_cache(maxsize=8)
def _identity_in(path: Path, state: tuple[int, ...]) -> Mapping[str, str]:
    identity: Mapping[str, str] = checkpoint.load(path, torch.device("cpu"))["identity"]
    return identity


def starting_checkpoints(experiment: Experiment) -> tuple[Path | None, Path | None]:
    """Return the checkpoint to resume from and the one with initial weights; at most one is not None.

    Raises:
        UserError: it does not exist.
    """
    resumed, initial = foreign_checkpoint(experiment), initial_weights(experiment)
    if resumed is not None and not resumed.is_file():
        raise UserError(f"trainer.resume: checkpoint '{resumed}' does not exist; use auto, never or an existing file")
    if initial is not None and not initial.is_file():
        raise UserError(f"trainer.init_from: '{initial}' does not exist; give a run directory or a checkpoint")
    return resumed, initial


def foreign_checkpoint(experiment: Experiment) -> Path | None:
    """Return the checkpoint that ``trainer.resume`` names, or None."""
    wish: str = experiment.settings["trainer"].resume
    return None if wish in ("auto", "never") else path_of(wish, "trainer.resume")


def initial_weights(experiment: Experiment) -> Path | None:
    """Return the checkpoint that ``trainer.init_from`` names, or None; for a run directory, its ``best.ckpt``."""
    wish: str | None = experiment.settings["trainer"].init_from
    if wish is None:
        return None
    path = path_of(wish, "trainer.init_from")
    return path / "checkpoints" / "best.ckpt" if path.is_dir() else path


def _start(experiment: Experiment) -> str:
    """Return the run or the digests of the checkpoints that the run starts from: they determine the result."""
    return " ".join(filter(None, [start_of_extension(experiment), *_digests(_of_start(experiment))]))


def _of_start(experiment: Experiment) -> list[Path]:
    """Return the checkpoints that a run starts from."""
    resumed, initial = starting_checkpoints(experiment)
    of_parts = [path for bound in experiment.parts.values() for path in _checkpoints(bound.settings)]
    return [path for path in (resumed or initial, *of_parts) if path is not None]


def files_read(experiment: Experiment) -> list[str] | None:
    """Return the files and folders that data and start of a run are read from, absolute; None if they are unknown."""
    source = experiment.source
    of_data = source.files
    is_declared = source.is_of_menvae() or "files" in vars(type(source))
    if of_data is None or not is_declared:  # a plugin that inherits it may read more
        return None
    found = [*of_data, *_of_start(experiment)]
    return [str(path.absolute()) for path in found]


def digests_of_checkpoints(settings: Mapping[str, Any]) -> list[str]:
    """Return the digests of the checkpoints that a part and its nested parts name; usually none."""
    return _digests(_checkpoints(settings))


def _digests(paths: Iterable[Path]) -> list[str]:
    return [_digest(part, _state(part)) for path in paths for part in _files(path)]


@lru_cache(maxsize=256)
def _digest(path: Path, state: tuple[int, ...]) -> str:
    """Return the digest of a file; the points of a sweep that start from it read it once."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checkpoints(settings: Mapping[str, Any]) -> Iterator[Path]:
    """Yield the checkpoints that a part and its nested parts name; they exist, because the part has read them."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _checkpoints(value)
        elif key == "checkpoint" and value is not None:
            yield path_of(value, key)


def _files(path: Path) -> list[Path]:
    """Return the file itself, or the files in a folder, without hidden ones."""
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
