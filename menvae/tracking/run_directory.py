"""The folder of one run: its place, its lock, its status, and the small files that describe it."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal

from menvae.errors import UserError
from menvae.tracking.local import write_atomically

State = Literal["running", "finished", "collapsed", "failed"]


class RunDirectory:
    """``<output_dir>/runs/<name>_<hash>/``, held by one process at a time.

    Attributes:
        path: absolute path of the folder.
    """

    def __init__(self, path: Path) -> None:
        """Make the folder and lock it.

        Raises:
            UserError: another process holds it.
        """
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._lock: IO[str] = (path / ".lock").open("a+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.seek(0)
            holder = self._lock.read().strip() or "another process"
            self._lock.close()
            raise UserError(
                f"run '{path.name}' is being trained by {holder}; wait for it, or use trainer.resume=never"
            ) from None
        self._lock.truncate(0)
        self._lock.write(f"process {os.getpid()} on {os.uname().nodename}")
        self._lock.flush()

    @classmethod
    def choose(cls, runs: Path, identity: str, *, new: bool) -> RunDirectory:
        """Return the folder of ``identity``; with ``new`` the first free one of it, it_2, ..."""
        if not new:
            return cls(runs / identity)
        number = 1
        while (runs / (identity if number == 1 else f"{identity}_{number}")).exists():
            number += 1
        return cls(runs / (identity if number == 1 else f"{identity}_{number}"))

    def release(self) -> None:
        """Let go of the lock."""
        self._lock.close()

    @property
    def checkpoints(self) -> Path:
        """Folder of ``last.ckpt`` and ``best.ckpt``."""
        return self.path / "checkpoints"

    @property
    def pictures(self) -> Path:
        """Folder of pictures."""
        return self.path / "pictures"

    def status(self) -> dict[str, Any]:
        """Return what `set_status` wrote last, or ``{"state": "new"}``."""
        path = self.path / "status.json"
        status: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"state": "new"}
        return status

    def set_status(self, state: State, **details: str | float | bool) -> None:
        """Write ``status.json``."""
        write_json(self.path / "status.json", {"state": state, **details})


def write_text(path: Path, content: str) -> Path:
    """Write a file whole or not at all."""
    write_atomically(path, content.encode())
    return path


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Write a JSON file whole or not at all."""
    return write_text(path, json.dumps(content, indent=2) + "\n")


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    """Write a CSV file whole or not at all."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return write_text(path, buffer.getvalue())
