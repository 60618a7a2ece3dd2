"""The local log: the first and complete record of a run; everything else (MLflow, CSV) is a copy of it.

``metrics.jsonl`` and ``metrics.csv`` contain only results of the computation, so two identical runs write identical
bytes. Values that differ between runs (durations, system load, the time of day) are in ``timings.jsonl``.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from menvae.errors import UserError
from menvae.files import csv_text, sync_directory, write_atomically

Row = dict[str, float | None]

_EPOCH = "epoch"
_TIMESTAMP = "timestamp_ms"


class LocalLog:
    """One line per epoch in ``metrics.jsonl`` (also as ``metrics.csv``) and in ``timings.jsonl`` of a run directory.

    Reading never changes a file, so the log of an active run can be read. Every write is on disk when the method
    returns; a process killed during a write leaves at most one incomplete last line, which readers ignore and
    ``rewind`` removes. A trainer appends an epoch *before* it writes that epoch's checkpoint, and on resuming calls
    ``rewind`` with the checkpoint's epoch, so that no epoch is missing or appears twice.

    Args:
        run_dir: the run directory; created with the first line.
    """

    def __init__(self, run_dir: Path) -> None:
        self.metrics_path = run_dir / "metrics.jsonl"
        self.csv_path = run_dir / "metrics.csv"
        self.timings_path = run_dir / "timings.jsonl"
        self._table: _Table | None = None  # content of metrics.csv; None until this process writes
        self._times_ms: dict[int, int] = {}  # by epoch: those that this process has written or looked up

    def rewind(self, last_epoch: int) -> None:
        """Remove the epochs after ``last_epoch``, and an incomplete last line; atomic for each file.

        Args:
            last_epoch: the last epoch to keep; 0 removes all.

        Raises:
            UserError: a line other than the last is invalid, because the file was edited or the disk is damaged.
        """
        self._times_ms.clear()
        for path in (self.timings_path, self.metrics_path):
            kept = [line for line, row in _complete_lines(path) if _epoch_of(row) <= last_epoch]
            content = b"".join(kept)
            if path.exists() and content != path.read_bytes():
                write_atomically(path, content)
        self._table = _Table(self.metrics())
        if self.csv_path.exists() or self._table.last_epoch:
            write_atomically(self.csv_path, self._table.csv())

    def append(self, epoch: int, metrics: Mapping[str, float | None], timings: Mapping[str, float]) -> None:
        """Append one epoch; it is on disk when this returns.

        Args:
            epoch: counted from 1; larger than every epoch logged before.
            metrics: results of the computation, in the order to keep; NaN and infinities become null.
            timings: ``time/`` and ``system/`` values, which differ between runs.

        Raises:
            ValueError: the epoch is not larger than the last (call ``rewind`` first), or a key is reserved.
        """
        if reserved := {_EPOCH, _TIMESTAMP} & (metrics.keys() | timings.keys()):
            raise ValueError(f"metric keys {sorted(reserved)} are reserved for the local log")
        if self._table is None:
            self._drop_torn_lines()
        assert self._table is not None
        if epoch <= self._table.last_epoch:
            raise ValueError(
                f"epoch {epoch} cannot follow epoch {self._table.last_epoch} in {self.metrics_path}: rewind first"
            )
        row: Row = {_EPOCH: epoch} | {key: _finite(value) for key, value in metrics.items()}
        self._times_ms[epoch] = time.time_ns() // 1_000_000
        timing: Row = {_EPOCH: epoch, _TIMESTAMP: self._times_ms[epoch]}
        timing |= {key: _finite(value) for key, value in timings.items()}
        self.metrics_path.parent.mkdir(parents=True, exist_ok=True)
        # Timings first, so that an epoch in metrics.jsonl is complete.
        _append_line(self.timings_path, timing)
        _append_line(self.metrics_path, row)
        self._table.append(row)
        write_atomically(self.csv_path, self._table.csv())

    def metrics(self) -> list[Row]:
        """Return the complete lines of ``metrics.jsonl``, each with ``epoch`` first; null is None."""
        return [row for _, row in _complete_lines(self.metrics_path)]

    def timings(self) -> list[Row]:
        """Return the complete lines of ``timings.jsonl``, each with ``epoch`` first."""
        rows = [row for _, row in _complete_lines(self.timings_path)]
        return [{key: value for key, value in row.items() if key != _TIMESTAMP} for row in rows]

    def last_values(self) -> dict[str, float]:
        """Return {metric or timing: its last finite value}."""
        values: dict[str, float] = {}
        for row in sorted(self.metrics() + self.timings(), key=_epoch_of):
            values |= finite_values(row)
        values.pop(_EPOCH, None)
        return values

    def timestamps_ms(self) -> dict[int, int]:
        """Return {epoch: time of logging in milliseconds since 1970}."""
        rows = [row for _, row in _complete_lines(self.timings_path)]
        return {_epoch_of(row): int(row[_TIMESTAMP] or 0) for row in rows if _TIMESTAMP in row}

    def timestamp_ms(self, epoch: int) -> int:
        """Return the time of logging an epoch, equal in every process; the time of now for an epoch without one."""
        if epoch not in self._times_ms:
            self._times_ms |= self.timestamps_ms()
        return self._times_ms.get(epoch) or time.time_ns() // 1_000_000

    def _drop_torn_lines(self) -> None:
        """Load the log without an epoch that a killed process left incomplete (timings are written first)."""
        self.rewind(_Table(self.metrics()).last_epoch)


def finite_values(row: Mapping[str, float | None]) -> dict[str, float]:
    """Leave out None, NaN and infinities.

    >>> finite_values({"a": 1, "b": None, "c": math.nan})
    {'a': 1.0}
    """
    return {key: float(value) for key, value in row.items() if value is not None and math.isfinite(value)}


def _append_line(path: Path, row: Row) -> None:
    is_new = not path.exists()
    with path.open("ab") as file:
        file.write(json.dumps(row, allow_nan=False, separators=(", ", ": ")).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        sync_directory(path.parent)


def _complete_lines(path: Path) -> list[tuple[bytes, Row]]:
    """Return (line with its newline, parsed line) for every complete line."""
    if not path.exists():
        return []
    lines = path.read_bytes().splitlines(keepends=True)
    complete: list[tuple[bytes, Row]] = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            row = None
        if isinstance(row, dict) and _is_row(row):
            complete.append((line, row))
        elif number < len(lines):
            raise UserError(f"{path}, line {number}: not a line of a metrics log: {line[:60]!r}")
    return complete


def _is_row(row: Mapping[str, object]) -> bool:
    return isinstance(row.get(_EPOCH), int) and all(
        value is None or isinstance(value, int | float) for value in row.values()
    )


def _epoch_of(row: Row) -> int:
    epoch = row[_EPOCH]
    assert epoch is not None
    return int(epoch)


def _finite(value: float | None) -> float | None:
    """Return the number as plain Python (JSON then has its shortest exact digits), or None."""
    if value is None or not math.isfinite(value):
        return None
    return value if type(value) is int else float(value)


class _Table:
    """The rows as CSV, one column per key; only a row with a new key formats all rows again."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = list(rows)
        self._columns = list(dict.fromkeys([_EPOCH, *(key for row in rows for key in row)]))
        self._text = self._lines(self._rows)

    @property
    def last_epoch(self) -> int:
        """The epoch of the last row; 0 without rows."""
        return _epoch_of(self._rows[-1]) if self._rows else 0

    def append(self, row: Row) -> None:
        """Add a row, and columns for its new keys."""
        self._rows.append(row)
        known = set(self._columns)
        new_columns = [key for key in row if key not in known]
        self._columns += new_columns
        self._text = self._lines(self._rows) if new_columns else self._text + self._lines([row])

    def csv(self) -> bytes:
        """Return header and rows."""
        return (csv_text([self._columns]) + self._text).encode()

    def _lines(self, rows: Sequence[Row]) -> str:
        return csv_text([row.get(column) for column in self._columns] for row in rows)
