"""The directory of one run: its path, lock and status."""

from __future__ import annotations

import glob
import logging
import os
import re
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal

from menvae.errors import UserError
from menvae.files import (
    A_LOOK_S,
    DamagedFileError,
    FolderIsLockedError,
    FolderLock,
    Types,
    read_json,
    remove_leftovers,
    write_json,
)

_log = logging.getLogger(__name__)

State = Literal["running", "paused", "interrupted", "finished", "collapsed", "pruned", "failed"]
ENDED: Final = ("finished", "collapsed", "pruned")
"""States of runs with results."""
RUNS: Final = "runs"
"""Folder of run directories in an output directory."""
_STATUS: Types = {
    "reason": str,
    "epochs": int,
    "best_epoch": int,
    "gates_passed": bool,
    "code": str,
    "trackers": list,
    "tracked": bool,
    "began_at": float,
    "ended_at": float,
}


class RunDirectory:
    """``<output_dir>/runs/<name>_<hash>/``, locked by one process at a time.

    Attributes:
        path: absolute path of the folder.
    """

    def __init__(self, path: Path, patience_s: float = A_LOOK_S) -> None:
        """Create the folder and lock it.

        Args:
            path: path of the folder.
            patience_s: how long to wait for a process that holds the lock.

        Raises:
            UserError: another process still holds the lock.
        """
        self.path = path
        self._began_at: float | None = None
        path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock = FolderLock(path, patience_s)
        except FolderIsLockedError as error:
            raise UserError(
                f"run '{path.name}' is being trained by {error}; wait until it ends, or use trainer.resume=never"
            ) from None
        remove_leftovers(path, ".*.tmp")  # they may be as large as a checkpoint, and keep a full disk full
        remove_leftovers(self.checkpoints, ".*.ckpt.*")

    @classmethod
    def choose(cls, runs: Path, identity: str, *, new: bool) -> RunDirectory:
        """Lock the latest folder of ``identity``; with ``new``, the first free one of identity, identity_2, ..."""
        return cls(runs / (free_name(runs, identity) if new else newest_name(runs, identity)))

    def release(self) -> None:
        """Release the lock."""
        self._lock.release()

    @property
    def checkpoints(self) -> Path:
        """Folder of ``last.ckpt`` and ``best.ckpt``."""
        return self.path / "checkpoints"

    @property
    def pictures(self) -> Path:
        """Folder of pictures."""
        return self.path / "pictures"

    def status(self) -> dict[str, Any]:
        """Return the last status that `set_status` wrote; ``{"state": "new"}`` if there is none or it is damaged."""
        try:
            return read_status(self.path) or {"state": "new"}
        except DamagedFileError as error:
            _log.warning("%s; the run goes on from its checkpoint, as after a crash", error)
            return {"state": "new"}

    def gates(self) -> dict[str, Any]:
        """Return the content of ``gates.json``, the gates of an ended run.

        Raises:
            UserError: the file is damaged or does not exist.
        """
        path = self.path / "gates.json"
        try:
            table = read_json(path, {"gates": list, "passed": bool}, {"note": str})
            if not table or not all(
                isinstance(gate, dict) and {"name", "value"} <= gate.keys() for gate in table["gates"]
            ):
                raise DamagedFileError(f"'{path}' is damaged or missing")
        except DamagedFileError as error:
            remedy = "remove status.json beside it, and the same command evaluates the run again"
            raise UserError(f"{error}; {remedy}") from None
        return table

    def check_kept(self) -> None:
        """Raise `UserError` if somebody removed the folder or replaced it since it was locked."""
        if self._lock.is_lost:
            raise UserError(
                f"run directory '{self.path}' was removed during the run; the same command trains the run again"
            )

    def set_status(self, state: State, **details: str | float | bool) -> None:
        """Write ``status.json``; raises `UserError` as `check_kept`."""
        self.check_kept()
        write_json(self.path / "status.json", {"state": state, **details})

    def begin(self, **details: str | float | bool) -> None:
        """Write that this process trains the run from now on; raises `UserError` as `check_kept`."""
        self._began_at = time.time()
        self.set_status("running", **details, began_at=self._began_at)

    def end(self, state: State, **details: str | float | bool) -> None:
        """Write how the run has ended, and that it was now: the time of a file changes when it is copied or sent.

        Raises:
            UserError: as `check_kept`.
        """
        began = {} if self._began_at is None else {"began_at": self._began_at}
        self.set_status(state, **details, **began, ended_at=time.time())


def read_status(run_dir: Path) -> dict[str, Any]:
    """Return the content of ``status.json``; empty if it does not exist; raises `DamagedFileError`."""
    status = read_json(run_dir / "status.json", {}, {"state": str, **_STATUS})
    if status and not ("state" in status and all(isinstance(key, str) for key in status.get("trackers", []))):
        raise DamagedFileError(f"'{run_dir / 'status.json'}' is damaged: it lacks 'state', or a tracker has no name")
    return status


def trackers_of(status: Mapping[str, Any]) -> frozenset[str]:
    """Return the keys of the trackers that have the complete run, from its ``status.json``."""
    only_mlflow = ["mlflow"] if status.get("tracked", False) else []  # written by versions without other trackers
    return frozenset(status.get("trackers", only_mlflow))


def free_name(runs: Path, identity: str, taken: Collection[str] = ()) -> str:
    """Return the first of identity, identity_2, ... that is neither a folder of ``runs`` nor ``taken``."""
    number, name = 1, identity
    while (runs / name).exists() or name in taken:
        number += 1
        name = f"{identity}_{number}"
    return name


def newest_names(runs: Path) -> Callable[[str], str]:
    """Return a function that answers as `newest_name` does; it lists the folder once, now."""
    newest: dict[str, int] = {}
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(runs) as entries:
        for entry in entries:
            if (found := re.fullmatch("(.+)_([0-9]+)", entry.name)) and entry.is_dir():
                newest[found[1]] = max(int(found[2]), newest.get(found[1], 0))

    def name(identity: str) -> str:
        number = newest.get(identity, 1)
        return identity if number == 1 else f"{identity}_{number}"

    return name


def newest_name(runs: Path, identity: str) -> str:
    """Return the last of identity, identity_2, ... among the folders of ``runs``; ``identity`` if there is none."""
    folders = (path.name for path in runs.glob(f"{glob.escape(identity)}_*") if path.is_dir())
    numbers = (name.removeprefix(f"{identity}_") for name in folders)
    newest = max((int(number) for number in numbers if re.fullmatch("[0-9]+", number)), default=1)
    return identity if newest == 1 else f"{identity}_{newest}"
