"""CSV and Parquet files -> tables whose every number is known to be one."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from menvae.data.digests import digest_of
from menvae.errors import UserError, nearest

if TYPE_CHECKING:
    import pandas as pd  # half a second, and few need it


_log = logging.getLogger(__name__)

Gaps = Literal["fail", "drop"]

SUFFIXES = (".csv", ".parquet")


@dataclass(frozen=True)
class Table:
    """Rows of numbers, perhaps with classes, groups and targets.

    Attributes:
        columns: F names.
        values: finite [N, F].
        labels: index of each row's class, -1 where it is not known [N].
        classes: names of the classes; empty without labels.
        groups: what stays together in a split, such as a drill hole: one number a group [N].
        targets: column -> its numbers [N], NaN where one is missing.
    """

    columns: tuple[str, ...]
    values: NDArray[np.float64]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    groups: NDArray[np.int64]
    targets: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.values)

    @cached_property
    def hash(self) -> str:
        """Hash of the content, whatever file it came from."""
        arrays = [self.values, self.labels, self.groups]
        content: list[object] = [self.columns, self.classes, *map(_hexadecimal, arrays)]
        if self.targets:
            content.append([[name, _hexadecimal(values)] for name, values in self.targets.items()])
        return digest_of(content)

    @cached_property
    def rows_hash(self) -> str:
        """Hash of the numbers alone: the same whether or not classes and groups were read beside them."""
        return digest_of([self.columns, _hexadecimal(self.values)])


def _hexadecimal(values: NDArray[np.generic]) -> str:
    return np.ascontiguousarray(values).tobytes().hex()


def read_table(
    path: Path,
    columns: Sequence[str],
    label: str | None,
    group: str | None,
    gaps: Gaps,
    targets: Sequence[str] = (),
) -> Table:
    """Read the columns that are needed.

    Args:
        path: a ``.csv`` (with a header) or ``.parquet`` file.
        columns: whose values are numbers.
        label: column of the classes, words or whole numbers, or nothing where one is not known. None: no classes.
        group: column of what stays together; None: every row is on its own.
        gaps: what a row without a number does: ``fail``, or be left out (``drop``).
        targets: columns whose values are numbers too, of which some may be missing whatever ``gaps`` is.

    Raises:
        UserError: no such file or column, a column that stands twice, a value that is no finite number, a row without a
            group, or fewer than 2 classes among the rows that are kept.
    """
    frame = _read_frame(path, [*columns, *targets], [name for name in (label, group) if name is not None])
    if frame.empty:
        raise UserError(f"data.path: '{path}' holds no row")
    values = np.stack([_numbers(frame[name], name) for name in columns], axis=1)
    kept = _without_gaps(values, columns, gaps)
    rows = np.flatnonzero(kept)  # a table is as if the file had no other rows: neither their classes nor their groups
    groups = np.arange(len(rows))
    if group is not None:
        words = _words(frame[group][kept])
        if (words == "").any():
            raise UserError(f"data.group: row {rows[np.argmax(words == '')] + 1} has no '{group}'")
        groups = np.unique(words, return_inverse=True)[1]
    labels, classes = np.full(len(rows), -1), tuple[str, ...]()
    if label is not None:
        labels, classes = _classes(_words(frame[label][kept]), label)
    known = {name: _numbers(frame[name], name)[kept] for name in targets}
    return Table(tuple(columns), values[kept], labels.astype(np.int64), classes, groups.astype(np.int64), known)


def _read_frame(path: Path, columns: Sequence[str], words: Sequence[str]) -> pd.DataFrame:
    import pyarrow.csv
    import pyarrow.parquet

    if path.suffix not in SUFFIXES:
        raise UserError(f"data.path: '{path}' is not a table that can be read; its name must end in .csv or .parquet")
    if not path.is_file():
        raise UserError(f"data.path: file '{path}' does not exist")
    wanted = list(dict.fromkeys([*columns, *words]))
    try:
        if path.suffix == ".parquet":
            _check_columns(wanted, pyarrow.parquet.read_schema(path).names, path)
            table = pyarrow.parquet.read_table(path, columns=wanted)
        else:  # not by pandas, whose fast parser misses the nearest number now and then
            convert = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(words, pyarrow.string()))
            whole = min(max(path.stat().st_size, 1), 2**31 - 1)  # types are guessed from the first block alone
            read, parse = pyarrow.csv.ReadOptions(block_size=whole), pyarrow.csv.ParseOptions(newlines_in_values=True)
            table = pyarrow.csv.read_csv(path, read, parse, convert)
            _check_columns(wanted, table.column_names, path)
        return table.select(wanted).to_pandas()
    except (OSError, pyarrow.ArrowException) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"data.path: '{path}' cannot be read as a table: {reason}") from error


def _check_columns(wanted: Sequence[str], there: Sequence[str], path: Path) -> None:
    for name in wanted:
        if name not in there:
            raise UserError(f"data: '{path}' has no column '{name}'; {nearest(name, there)}")
        if there.count(name) > 1:
            raise UserError(f"data: '{path}' has {there.count(name)} columns '{name}'; rename all but one of them")


def _numbers(series: pd.Series[float], name: str) -> NDArray[np.float64]:
    """Return values, NaN where there is none.

    Raises:
        UserError: something that is not a number, or not a finite one.
    """
    import pandas as pd

    if series.dtype.kind in "Mmb":  # times and truths are no measurements, though pandas counts them
        series = series.astype(str)
    numbers: NDArray[np.float64] = pd.to_numeric(series, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    wrong: NDArray[np.bool_] = (np.isnan(numbers) & series.notna().to_numpy(dtype=bool)) | np.isinf(numbers)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise UserError(
            f"data: column '{name}' holds '{series.iloc[row]}' in row {row + 1}, which is not a finite number"
        )
    return numbers


def _without_gaps(values: NDArray[np.float64], columns: Sequence[str], gaps: Gaps) -> NDArray[np.bool_]:
    missing: NDArray[np.bool_] = np.isnan(values)
    kept: NDArray[np.bool_] = np.logical_not(np.any(missing, axis=1))
    if kept.all():
        return kept
    row = int(np.argmin(kept))
    column = columns[int(np.argmax(missing[row]))]
    count = int((~kept).sum())
    if gaps == "fail" or not kept.any():
        raise UserError(
            f"data: {count} of {len(kept)} rows lack a number, the first is row {row + 1} in column '{column}'; fill "
            "them, or leave such rows out with data.gaps=drop"
        )
    _log.warning("%d of %d rows lack a number and are left out", count, len(kept))
    return kept


def _words(series: pd.Series[str]) -> NDArray[np.str_]:
    """Return values as words, empty where there is none; whole numbers alike in every kind of file.

    Numbers that pandas made floats of, because one is missing, are whole numbers still: 2.0 is 2.
    """
    words: NDArray[np.str_] = series.astype("string").fillna("").str.strip().to_numpy(dtype=np.str_)
    unique, inverse = np.unique(words, return_inverse=True)
    if all(re.fullmatch(r"(-?\d+(\.0)?)?", word) for word in unique):
        unique = np.array([word.removesuffix(".0") for word in unique], dtype=np.str_)
    return unique[inverse]


def _classes(words: NDArray[np.str_], label: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    names = sorted({str(word) for word in np.unique(words)} - {""}, key=_numbers_in_order)
    if len(names) < 2:
        raise UserError(f"data.label: column '{label}' holds {len(names)} classes; at least 2 are needed")
    index = {"": -1, **{name: place for place, name in enumerate(names)}}
    unique, inverse = np.unique(words, return_inverse=True)
    return np.array([index[str(word)] for word in unique], dtype=np.int64)[inverse], tuple(names)


def _numbers_in_order(word: str) -> tuple[bool, int, str]:
    """Sort 2 before 10, and both before words."""
    return (not word.isdecimal(), int(word) if word.isdecimal() else 0, word)
