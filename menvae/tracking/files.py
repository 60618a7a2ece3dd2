"""Plain files as a tracker: one JSON file per run, and one table of all runs.

The table ``runs.csv`` has a row for each run and sweep, with columns as in ``mlflow.search_runs``: ``name``,
``status``, ``params.<key>``, ``metrics.<key>`` (the last value), ``tags.<key>``; ``pandas.read_csv`` reads it.
Artifacts stay in the run directory; the row contains its path. Files hold that path relative to the folder of the
table, so that both can be moved together.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import NoneType
from typing import Any

from menvae.configuration import path_of
from menvae.files import DamagedFileError, FolderLock, Types, read_json, write_json, write_table
from menvae.registry import register
from menvae.tracking.local import LocalLog, finite_values
from menvae.tracking.tracker import DatasetInput, Status, Tracker, TrackerContext

_log = logging.getLogger(__name__)

_TABLE = "runs.csv"
_RUN: Types = {
    **dict.fromkeys(("name", "status", "start_time", "run_dir"), str),
    **dict.fromkeys(("sweep", "end_time"), (str, NoneType)),
    **dict.fromkeys(("params", "metrics", "tags"), dict),
}
_SECTIONS = ("params", "metrics", "tags")
_PATIENCE_S = 60.0  # for the lock of other processes, which write the table in milliseconds


@register("tracker", "files")
class FilesTracker(Tracker):
    """Writes a table of all runs to a folder, without a database."""

    def __init__(self, context: TrackerContext, *, folder: str | None = None) -> None:
        """Choose the folder.

        Args:
            context: context of the run.
            folder: path; None: ``tracked`` in ``output_dir``. Several output directories may share it.
        """
        self._context = context
        self._folder = (
            path_of(folder, "tracking.trackers.files.folder").resolve() if folder else context.output_dir / "tracked"
        )
        self._file = _file_of(self._folder, context)
        self._run: dict[str, Any] = {}

    @property
    def address(self) -> str:
        """The folder."""
        return str(self._folder)

    def start(
        self,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        log: LocalLog,
        datasets: Sequence[DatasetInput] = (),
    ) -> None:
        """Write the run with the metrics of the local log."""
        before = _read(self._file)
        self._run = {
            "name": self._context.run_name,
            "status": "RUNNING",
            "sweep": self._context.parent.name if self._context.parent else None,
            "start_time": before.get("start_time", _now()),
            "end_time": None,
            "run_dir": str(self._context.run_dir),
            "place": _place(self._folder, self._context),
            "params": dict(params),
            "metrics": log.last_values(),
            "tags": {**before.get("tags", {}), **tags},
            "datasets": [asdict(dataset) for dataset in datasets],
            "artifacts": before.get("artifacts", []),
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        self._write()
        self._write_table()

    def log(self, epoch: int, metrics: Mapping[str, float | None], timings: Mapping[str, float]) -> None:
        """Write the latest values of the run; the table is updated when the run ends."""
        self._run["metrics"] |= finite_values({**metrics, **timings})
        self._write()

    def log_artifacts(self, paths: Sequence[Path]) -> None:
        """Record the paths."""
        relative = [self._context.relative(path).as_posix() for path in paths]
        self._run["artifacts"] = list(dict.fromkeys([*self._run["artifacts"], *relative]))

    def finish(self, status: Status, tags: Mapping[str, str] | None = None, *, patience_s: float | None = None) -> bool:
        """Write the final status of the run, and the table."""
        self._run |= {"status": status, "end_time": _now(), "tags": {**self._run["tags"], **(tags or {})}}
        self._write()
        self._write_table(patience_s)
        return True

    def _write(self) -> None:
        write_json(self._file, self._run)

    def _write_table(self, patience_s: float | None = None) -> None:
        """Rewrite the table from the files of all runs; the last writer sees all of them."""
        lock = FolderLock(self._folder, _PATIENCE_S if patience_s is None else patience_s)
        try:
            runs = [run for path in sorted(self._folder.glob("*.json")) if (run := _read(path))]
            rows = [_row(run, self._folder) for run in sorted(runs, key=lambda run: (run["start_time"], run["name"]))]
            columns = dict.fromkeys(column for row in rows for column in row)
            order = sorted(columns, key=lambda column: column.partition(".")[0] in _SECTIONS)
            write_table(self._folder / _TABLE, order, [[row.get(column) for column in order] for row in rows])
        finally:
            lock.release()


def _file_of(folder: Path, context: TrackerContext) -> Path:
    """Return the file of a run; its directory is part of the name, as output directories may share the folder.

    Earlier versions named files only after the run, or after the absolute path of its directory; a run that has such a
    file keeps it, so that it has one row.
    """
    run_dir = str(context.run_dir)
    for earlier in (folder / f"{context.run_name}.json", folder / f"{context.run_name}.{_digest(run_dir)}.json"):
        if _read(earlier).get("run_dir") == run_dir:
            return earlier
    return folder / f"{context.run_name}.{_digest(_place(folder, context))}.json"


def _place(folder: Path, context: TrackerContext) -> str:
    """Return the run directory relative to the folder of the table."""
    return os.path.relpath(context.run_dir, folder)


def _digest(path: str) -> str:
    return hashlib.sha256(path.encode()).hexdigest()[:8]


def _read(path: Path) -> dict[str, Any]:
    """Return the file of a run; empty if it does not exist or, after a warning, if it is damaged."""
    try:
        return read_json(path, _RUN, {"artifacts": list, "place": str})
    except DamagedFileError as error:
        _log.warning("%s; the table leaves it out", error)
        return {}


def _row(run: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    row = {key: run[key] for key in ("name", "status", "sweep", "start_time", "end_time", "run_dir")}
    if "place" in run:
        row["run_dir"] = os.path.normpath(folder / run["place"])
    for section in _SECTIONS:
        row |= {f"{section}.{key}": _text(value) for key, value in run[section].items()}
    return row


def _text(value: Any) -> Any:
    """Return the text of a cell: strings and floats unchanged, other values as JSON, as for parameters in MLflow."""
    return value if isinstance(value, str | float) else json.dumps(value)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
