"""The answer of a run that has ended, from its configuration alone: no data are opened, and nothing heavy is imported.

The name of a run contains the hashes of its data, and computing these opens or even prepares the cohort. A run that has
ended therefore leaves a record in the output directory, ``.answers/<key>.json``: its name under a key of the whole
configuration and of the installed code, with the state of every file that data and start of the run were read from. The
next command with the same key answers from the record, unless a file has changed since, or anything is left to do.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from menvae.configuration import check_writable, path_of
from menvae.console import logs
from menvae.errors import ExitCode, UserError
from menvae.files import DamagedFileError, Types, read_json, write_json
from menvae.fingerprints import state_of
from menvae.runs.directory import ENDED, RUNS, RunDirectory, newest_name, read_status, trackers_of
from menvae.runs.environment import state_of_code
from menvae.runs.gates_table import gates_table, judged_gates
from menvae.runs.reading import EVALUATION, read_mapping
from menvae.runs.references_table import references_table

_log = logging.getLogger(__name__)

_FOLDER = ".answers"
_TYPES: Types = {
    "run": str,
    "identity": str,
    "files": list,
    "state": str,
    "checkpoints": str,
    "trackers": list,
    "partitions": list,
}


@dataclass(frozen=True)
class Record:
    """What a run leaves to be answered by.

    Attributes:
        run: name of the run directory.
        identity: name of the run, without the number of a repetition.
        files: files and folders that its data and its start were read from.
        state: their state before they were read.
        checkpoints: state of those of the run, of which a truncated one is worth a warning.
        trackers: keys of the trackers that have to have the run.
        partitions: names of the supervised partitions.
    """

    run: str
    identity: str
    files: Sequence[str]
    state: str
    checkpoints: str
    trackers: Sequence[str]
    partitions: Sequence[str]


def answer(composed: DictConfig) -> ExitCode | None:
    """Report a run that has ended as `menvae.runs.train.train` would; return None if only that function can.

    Args:
        composed: configuration of ``conf/train.yaml``.

    Raises:
        UserError: the output directory cannot be written to, or another process holds the run.
    """
    key = None if "WORLD_SIZE" in os.environ else key_of(composed)  # ranks of one run wait for each other
    record = None if key is None else find(key)
    if key is None or record is None:
        return None
    check_writable(key.output_dir)
    directory = RunDirectory(key.output_dir / RUNS / record.run)
    logs.configure(None)
    try:
        status = directory.status()
        if status["state"] not in ENDED:  # somebody has removed it in between
            return None
        _log.info("run %s is already %s: nothing to train", directory.path, status["state"])
        return conclude(directory, status, record.partitions, strict=key.strict)
    finally:
        directory.release()
        logs.release()


@dataclass(frozen=True)
class Key:
    """A configuration to be found by; see `key_of`."""

    output_dir: Path
    digest: str
    strict: bool

    @property
    def path(self) -> Path:
        """The file of the record."""
        return self.output_dir / _FOLDER / f"{self.digest}.json"


def key_of(composed: DictConfig | Mapping[str, Any], num_ranks: int | None = None) -> Key | None:
    """Return the key of a configuration; None if it is invalid, or asks for a new run or for ranks started elsewhere.

    Everything that may affect the result is part of it, as text: what is written in two ways has two keys.

    Args:
        composed: configuration of ``conf/train.yaml``.
        num_ranks: number of ranks of the run; None: as ``trainer.devices`` says.
    """
    config: Any = composed
    if isinstance(composed, DictConfig):
        try:
            config = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
        except OmegaConfBaseException:
            return None
    try:
        config = json.loads(json.dumps(config))
        output_dir = path_of(config.pop("output_dir"), "output_dir").resolve()
        config.pop("sweep")
        strict, resume, devices = (
            config["gates"].pop("strict"),
            config["trainer"]["resume"],
            config["trainer"]["devices"],
        )
    except (AttributeError, KeyError, TypeError, ValueError, UserError):
        return None
    if config["trainer"].get("precision") == "auto":  # which may be another one on another machine
        return None
    if resume == "never" or not isinstance(strict, bool) or not isinstance(devices, int | None):
        return None
    parts = [config, num_ranks or devices or 1, str(Path.cwd()), state_of_code()]
    return Key(output_dir, hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32], strict)


def find(key: Key) -> Record | None:
    """Return the record of a run that has ended and of which nothing is left to do; None if there is none."""
    try:
        content = read_json(key.path, _TYPES)
        record = Record(**content) if content else None
        if record is None or state_of(record.files) != record.state:
            return None
        runs = key.output_dir / RUNS
        status = read_status(runs / record.run)
        if state_of_checkpoints(runs / record.run) != record.checkpoints:
            return None
    except (DamagedFileError, OSError, TypeError):
        return None
    is_complete = status.get("state") in ENDED and set(record.trackers) <= trackers_of(status)
    is_newest = newest_name(runs, record.identity) == record.run
    return record if is_complete and is_newest and status["state"] != "pruned" else None


def state_of_checkpoints(run_dir: Path) -> str:
    """Return the state of the checkpoints of a run; raises OSError."""
    return state_of([run_dir / "checkpoints"])


def remember(key: Key, record: Record) -> None:
    """Write the record of a run that has ended; not being able to costs later commands only time."""
    with suppress(OSError):
        key.path.parent.mkdir(exist_ok=True)
        write_json(key.path, asdict(record))


def conclude(
    directory: RunDirectory, status: Mapping[str, Any], partitions: Sequence[str], *, strict: bool
) -> ExitCode:
    """Show the gates of a run that has ended, and return its exit code.

    Args:
        directory: its directory.
        status: its status.
        partitions: names of the supervised partitions.
        strict: whether missed gates have an exit code of their own.

    Raises:
        UserError: ``gates.json`` is damaged or missing.
    """
    table = directory.gates()
    logs.show(gates_table(judged_gates(table), table.get("note", "")))
    if (beside := references_table(read_mapping(directory.path / EVALUATION), list(partitions))) is not None:
        logs.show(beside)
    _log.info("report: %s", directory.path / "report.html")
    return exit_code(status, strict=strict)


def exit_code(status: Mapping[str, Any], *, strict: bool) -> ExitCode:
    """Return the exit code of a run that has ended, and log why a collapsed one did."""
    if status["state"] == "collapsed":
        _log.error("%s", status["reason"])
        return ExitCode.COLLAPSED
    return ExitCode.GATES_NOT_MET if strict and not status["gates_passed"] else ExitCode.DONE
