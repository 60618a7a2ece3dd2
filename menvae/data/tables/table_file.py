"""CSV and Parquet files -> validated tables of finite numbers."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from menvae.data.digests import digest_of
from menvae.data.tables.frame import RowPlace, number_of_row, read_frame
from menvae.data.tables.nulls import Nulls, as_number, suspected_marks
from menvae.errors import UserError, about
from menvae.files import NULL_WORDS

if TYPE_CHECKING:
    import pandas as pd  # takes half a second; only tables need it


_log = logging.getLogger(__name__)

Gaps = Literal["fail", "drop"]


@dataclass(frozen=True)
class Table:
    """Rows of numbers, perhaps with classes, groups and targets.

    Attributes:
        columns: names of the F columns.
        values: finite values [N, F].
        labels: class index of each row [N], -1 where unknown.
        classes: class names; empty without labels.
        groups: group number of each row [N]; a split keeps groups, such as drill holes, whole.
        targets: column -> values [N], NaN where missing.
        place: where a row stands in its file.
        group_names: name of each group; empty if each row is a group of its own.
    """

    columns: tuple[str, ...]
    values: NDArray[np.float64]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    groups: NDArray[np.int64]
    targets: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    place: RowPlace = field(default=number_of_row, compare=False, repr=False)
    group_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.values)

    @property
    def group_of_row(self) -> NDArray[np.str_] | None:
        """Name of the group of each row [N]; None if each row is a group of its own."""
        return np.array(self.group_names)[self.groups] if self.group_names else None

    @cached_property
    def hash(self) -> str:
        """Hash of the content, independent of the file format."""
        arrays = [self.values, self.labels, self.groups]
        content: list[object] = [self.columns, self.classes, *map(_hexadecimal, arrays)]
        if self.targets:
            content.append([[name, _hexadecimal(values)] for name, values in self.targets.items()])
        return digest_of(content)

    @cached_property
    def rows_hash(self) -> str:
        """Hash of columns and values alone, independent of classes, groups and targets."""
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
    null_values: Sequence[float | str] = (),
) -> Table:
    """Read the required columns of a table.

    Missing are empty cells, nulls, NaN, the words `menvae.files.NULL_WORDS`, and ``null_values``, in every
    column and every file format.

    Args:
        path: a CSV file, a Parquet file or a folder of Parquet files, see `menvae.data.tables.frame.read_frame`.
        columns: numeric input columns.
        label: class column of words or integers; rows where it is missing are unlabelled. None: no classes.
        group: column of units that splits keep whole; None treats each row as its own group.
        gaps: how to handle rows with missing inputs: ``fail`` or ``drop``.
        targets: numeric target columns; values may be missing regardless of ``gaps``.
        null_values: further numbers and words that mean "missing".

    Raises:
        UserError: if the file or a column does not exist, a column appears twice, a value is not a finite number, a row
            has no group, or the kept rows have fewer than 2 classes.
    """
    nulls = Nulls(null_values)
    wanted_words = [name for name in (label, group) if name is not None]
    with about("data.path"):
        frame, place = read_frame(path, [*columns, *targets], wanted_words, nulls)
    if frame.empty:
        raise UserError(f"data.path: '{path}' contains no rows")
    numbers = {name: _numbers(frame[name], name, nulls, place) for name in dict.fromkeys([*columns, *targets])}
    values = np.stack([numbers[name] for name in columns], axis=1)
    kept = _without_gaps(values, columns, gaps, place)
    rows = np.flatnonzero(kept)  # dropped rows leave neither classes nor groups behind
    groups, group_names = np.arange(len(rows)), tuple[str, ...]()
    if group is not None:
        words = _words(frame[group][kept], nulls)
        if (words == "").any():
            raise UserError(f"data.group: {place(int(rows[np.argmax(words == '')]))} has no value in column '{group}'")
        names, groups = np.unique(words, return_inverse=True)
        group_names = tuple(names.tolist())
    labels, classes = np.full(len(rows), -1), tuple[str, ...]()
    if label is not None:
        labels, classes = _classes(_words(frame[label][kept], nulls), label)
    known = {name: numbers[name][kept] for name in targets}
    numbered = labels.astype(np.int64), classes, groups.astype(np.int64)
    return Table(tuple(columns), values[kept], *numbered, known, partial(_place_of_kept, place, rows), group_names)


def _place_of_kept(place: RowPlace, rows: NDArray[np.int64], row: int) -> str:
    return place(int(rows[row]))


def _numbers(series: pd.Series[float], name: str, nulls: Nulls, place: RowPlace) -> NDArray[np.float64]:
    """Return the values as floats, NaN where missing; warn of numbers that seem to mark missing values.

    Raises:
        UserError: if a value is not a finite number.
    """
    import pandas as pd

    if series.dtype.kind in "Mmb":  # pandas would convert times and booleans to numbers
        series = series.astype(str)
    numbers: NDArray[np.float64] = pd.to_numeric(series, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    is_text = np.isnan(numbers) & series.notna().to_numpy(dtype=bool)
    is_text[is_text] = [not nulls.is_null(str(word)) for word in series[is_text]]
    numbers = np.where(nulls.among_numbers(numbers), np.nan, numbers)
    wrong: NDArray[np.bool_] = is_text | np.isinf(numbers)
    if wrong.any():
        raise UserError(_why_no_numbers(series, np.flatnonzero(wrong), name, place))
    _warn_of_marks(numbers, name)
    return numbers


def _why_no_numbers(series: pd.Series[float], wrong: NDArray[np.int64], name: str, place: RowPlace) -> str:
    """Return a sentence on the first of the rows that hold no number, or hold one with a decimal comma."""
    cells = {int(row): str(series.iloc[row]) for row in wrong}
    row = next((row for row, cell in cells.items() if not _has_comma(cell)), int(wrong[0]))
    found = f"data: column '{name}' contains '{cells[row]}' in {place(row)}"
    if not _has_comma(cells[row]):
        return f"{found}, which is not a finite number; if it marks missing values, add it to data.null_values"
    words = [str(cell) for cell in series]
    other = next((index for index, word in enumerate(words) if "." in word and as_number(word) is not None), None)
    if other is None:
        return f"{found}, with a decimal comma; separate the columns by semicolons or tabs, or write decimal points"
    return (
        f"{found}, with a decimal comma, but '{words[other]}' in {place(other)}, with a decimal point; write all "
        f"numbers with one of them; if {words[other]} marks missing values, add it to data.null_values"
    )


def _has_comma(cell: str) -> bool:
    return "," in cell and as_number(cell.replace(",", ".")) is not None


def _warn_of_marks(numbers: NDArray[np.float64], name: str) -> None:
    marks = suspected_marks(numbers)
    for mark in marks:
        others = numbers[~np.isnan(numbers) & ~np.isin(numbers, marks)]
        _log.warning(
            "column '%s': %d of %d values are exactly %s, far from all others (%g to %g); if it marks missing values, "
            "add it to data.null_values",
            *(name, np.count_nonzero(numbers == mark), len(numbers), f"{mark:.10g}", others.min(), others.max()),
        )


def _without_gaps(
    values: NDArray[np.float64], columns: Sequence[str], gaps: Gaps, place: RowPlace
) -> NDArray[np.bool_]:
    missing: NDArray[np.bool_] = np.isnan(values)
    kept: NDArray[np.bool_] = np.logical_not(np.any(missing, axis=1))
    if kept.all():
        return kept
    row = int(np.argmin(kept))
    column = columns[int(np.argmax(missing[row]))]
    count = int((~kept).sum())
    if gaps == "fail" or not kept.any():
        raise UserError(
            f"data: {count} of {len(kept)} rows have missing values, the first in {place(row)}, column '{column}'; "
            "fill them in, or drop such rows with data.gaps=drop"
        )
    _log.warning("%d of %d rows have missing values and are dropped", count, len(kept))
    return kept


def _words(series: pd.Series[str], nulls: Nulls) -> NDArray[np.str_]:
    """Return the values as strings, empty where missing, with the same integers and booleans in every file format.

    If a value is missing, pandas reads integers as floats; "2.0" becomes "2" again. Programs write booleans as true,
    True or TRUE; all become True.
    """
    words: NDArray[np.str_] = series.astype("string").fillna("").str.strip().to_numpy(dtype=np.str_)
    unique, inverse = np.unique(words, return_inverse=True)
    is_null = np.array([nulls.is_null(str(word)) for word in unique], dtype=bool)
    if named := [f"'{word}'" for word in unique if word and word in NULL_WORDS]:  # not those that the user named
        _log.warning("column '%s': %s counts as missing", series.name, ", ".join(named))
    unique = np.where(is_null, "", unique)
    if all(re.fullmatch(r"(-?\d+(\.0)?)?", word) for word in unique):
        unique = np.array([word.removesuffix(".0") for word in unique], dtype=np.str_)
    if all(word.casefold() in ("", "true", "false") for word in unique):
        unique = np.array([word.capitalize() for word in unique], dtype=np.str_)
    return unique[inverse]


def _classes(words: NDArray[np.str_], label: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    names = sorted({str(word) for word in np.unique(words)} - {""}, key=_natural_order)
    if len(names) < 2:
        raise UserError(f"data.label: column '{label}' has too few classes ({len(names)}); at least 2 are needed")
    index = {"": -1, **{name: place for place, name in enumerate(names)}}
    unique, inverse = np.unique(words, return_inverse=True)
    return np.array([index[str(word)] for word in unique], dtype=np.int64)[inverse], tuple(names)


def _natural_order(word: str) -> tuple[bool, int, str]:
    """Sort key: 2 before 10, and both before words."""
    return (not word.isdecimal(), int(word) if word.isdecimal() else 0, word)
