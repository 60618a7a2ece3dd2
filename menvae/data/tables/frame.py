"""Files -> data frames: CSV in the layouts that programs of several countries write, and Parquet, one file or many.

The separator of a CSV file is the one that finds the wanted columns in its header. Decimal commas are read where
columns are not separated by commas. A row of units below the header is skipped.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import logging
import zlib
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from menvae.data.tables.nulls import Nulls, as_number
from menvae.errors import UserError, nearest

if TYPE_CHECKING:
    import pandas as pd  # takes half a second; only tables need it
    import pyarrow

_log = logging.getLogger(__name__)

_TEXT = (".csv", ".tsv")
_SEPARATORS = (",", ";", "\t")
_PEEKED_ROWS = 20  # to tell a row of units from data
_LIMITS = "<>=~\u2264\u2265\u2248\u00b1* "  # of a value below or above what can be measured

RowPlace = Callable[[int], str]
"""Index of a row of the frame -> where a person finds it, such as ``line 14``."""


def read_frame(path: Path, numbers: Sequence[str], words: Sequence[str], nulls: Nulls) -> tuple[pd.DataFrame, RowPlace]:
    """Read the wanted columns of a table.

    Args:
        path: a ``.csv`` or ``.tsv`` file in UTF-8 with a header, perhaps compressed (``.gz``); a ``.parquet`` file; or
            a folder of ``.parquet`` files, which are joined in the order of their names. Case does not matter.
        numbers: wanted numeric columns; a column keeps its text if it contains anything else.
        words: wanted columns of words or integers; those of CSV files are text.
        nulls: words that mean "missing".

    Returns:
        The columns, and where a row stands: its line in a CSV file, which the header is part of, or its number among
        the rows of Parquet, from 1.

    Raises:
        UserError: the file cannot be read, or a column is missing or appears twice.
    """
    import pyarrow

    wanted = list(dict.fromkeys([*numbers, *words]))
    name = path.name.lower()
    if not path.is_dir() and not name.removesuffix(".gz").endswith(_TEXT) and not name.endswith(".parquet"):
        raise UserError(
            f"'{path}' is not a supported table; its name must end in .csv, .tsv or .parquet; CSV may be "
            "compressed (.csv.gz)"
        )
    if not path.exists():
        raise UserError(f"file '{path}' does not exist")
    place: RowPlace = number_of_row
    try:
        if path.is_dir():
            table = _read_parquet(path, _parts(path), wanted)
        elif name.endswith(".parquet"):
            table = _read_parquet(path, [path], wanted)
        else:
            table, place = _read_csv(path, numbers, words, wanted, nulls)
        # Columns of an index of pandas are columns too; integers stay integers where others are missing.
        return table.to_pandas(ignore_metadata=True, integer_object_nulls=True), place
    except (OSError, EOFError, zlib.error, pyarrow.ArrowException) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if "invalid UTF8" in reason:
            raise _not_utf8(path) from error
        raise UserError(f"'{path}' cannot be read as a table: {reason}") from error


def number_of_row(row: int) -> str:
    """Return the place of a row of a table without a file of lines, counted from 1."""
    return f"row {row + 1}"


def _parts(folder: Path) -> list[Path]:
    """Return the Parquet files of a folder, sorted; hidden files and those that begin with ``_`` do not count."""
    parts = [
        file
        for file in sorted(folder.rglob("*"))
        if file.name.lower().endswith(".parquet") and file.is_file()
        if not any(part.startswith((".", "_")) for part in file.relative_to(folder).parts)
    ]
    if not parts:
        raise UserError(f"'{folder}' is a folder without .parquet files; give a file, or such a folder")
    return parts


def _read_parquet(path: Path, files: Sequence[Path], wanted: Sequence[str]) -> pyarrow.Table:
    """Read files whose columns may differ: what a file does not have is missing; ``hole=H1/`` is a column too."""
    import pyarrow.dataset
    import pyarrow.parquet

    base = path if path.is_dir() else path.parent
    folders = {part for file in files for part in file.relative_to(base).parent.parts}
    keys = {folder.partition("=")[0] for folder in folders if "=" in folder}
    of_folders = pyarrow.schema([(name, pyarrow.string()) for name in wanted if name in keys])
    schemas = [of_folders, *map(pyarrow.parquet.read_schema, files)]
    _check_columns(wanted, [schema.names for schema in schemas], path)
    of_wanted = [pyarrow.schema([one.field(name) for name in wanted if name in one.names]) for one in schemas]
    dataset = pyarrow.dataset.dataset(
        [str(file) for file in files],
        schema=pyarrow.unify_schemas(of_wanted, promote_options="permissive"),
        format="parquet",
        partitioning=pyarrow.dataset.partitioning(of_folders, flavor="hive"),
        partition_base_dir=str(base),
    )
    table = dataset.to_table(columns=list(wanted))
    texts = [field.with_type(pyarrow.string()) if _is_bytes(field.type) else field for field in table.schema]
    return table.cast(pyarrow.schema(texts))


def _is_bytes(kind: pyarrow.DataType) -> bool:
    """Whether a column holds text that its writer did not declare as such."""
    import pyarrow

    return bool(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind))


def _read_csv(
    path: Path, numbers: Sequence[str], words: Sequence[str], wanted: Sequence[str], nulls: Nulls
) -> tuple[pyarrow.Table, RowPlace]:
    """Read the wanted columns; pandas' fast parser does not always return the nearest float."""
    import pyarrow.csv

    content = _content(path)
    layout = _layout(content, numbers, wanted, nulls, path)
    whole = min(max(len(content), 1), 2**31 - 1)  # column types are inferred from the first block only
    read = pyarrow.csv.ReadOptions(block_size=whole, skip_rows_after_names=int(layout.has_units))
    parse = pyarrow.csv.ParseOptions(delimiter=layout.separator, newlines_in_values=True)

    def parsed(decimal_point: str) -> pyarrow.Table:
        convert = pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(words, pyarrow.string()),
            include_columns=wanted,
            null_values=sorted(nulls.words),
            decimal_point=decimal_point,
        )
        return pyarrow.csv.read_csv(pyarrow.BufferReader(content), read, parse, convert)

    table = parsed(".")
    if layout.separator != "," and _num_text(table, numbers):
        table = min(table, parsed(","), key=lambda found: _num_text(found, numbers))
    if any(pyarrow.types.is_binary(kind) for kind in table.schema.types):
        raise _not_utf8(path)
    return table, partial(_line, path, layout)


def _content(path: Path) -> bytes:
    content = path.read_bytes()
    return gzip.decompress(content) if path.name.lower().endswith(".gz") else content


def _num_text(table: pyarrow.Table, numbers: Sequence[str]) -> int:
    """Return how many numeric columns contain text."""
    import pyarrow

    return sum(pyarrow.types.is_string(table.schema.field(name).type) for name in numbers)


@dataclass(frozen=True)
class _Layout:
    separator: str
    has_units: bool


def _line(path: Path, layout: _Layout, row: int) -> str:
    """Return the line on which a row begins; cells may contain line breaks, and empty lines are no rows."""
    text = io.TextIOWrapper(io.BytesIO(_content(path)), "utf-8-sig", "replace", newline="")
    reader = csv.reader(text, delimiter=layout.separator)
    left, line = row + 1 + layout.has_units, 1
    with suppress(csv.Error):  # a cell of more than 131,072 characters, which pyarrow reads
        for cells in reader:
            if cells and not left:
                return f"line {line}"
            left -= bool(cells)
            line = reader.line_num + 1
    return number_of_row(row)


def _layout(content: bytes, numbers: Sequence[str], wanted: Collection[str], nulls: Nulls, path: Path) -> _Layout:
    """Find out how a CSV file is written, from its first rows.

    Raises:
        UserError: the file is empty or not UTF-8, or a column is missing or appears twice.
    """
    peeked = {separator: _first_rows(content, separator) for separator in _SEPARATORS}
    if not all(peeked.values()):
        raise UserError(f"'{path}' cannot be read as a table: it has no header")
    headers = {separator: rows[0] for separator, rows in peeked.items()}
    separator = max(_SEPARATORS, key=lambda one: (len({*wanted} & {*headers[one]}), len(headers[one])))
    header, *rows = peeked[separator]
    if not {*wanted} <= {*header} and any(mark in name for name in header for mark in "\ufffd\0"):
        raise _not_utf8(path)
    _check_columns(wanted, [header], path)
    places = [header.index(name) for name in numbers]
    units = _units(rows, places, nulls)
    if units:
        _log.warning("'%s': the first row after the header holds units, such as '%s', and is skipped", path, units[0])
    return _Layout(separator, bool(units))


def _first_rows(content: bytes, separator: str) -> list[list[str]]:
    text = io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", "replace", newline="")
    rows: list[list[str]] = []
    with suppress(csv.Error):  # a cell of more than 131,072 characters, which pyarrow reads
        rows.extend(itertools.islice(filter(None, csv.reader(text, delimiter=separator)), 1 + _PEEKED_ROWS))
    return rows


def _units(rows: Sequence[Sequence[str]], places: Sequence[int], nulls: Nulls) -> list[str]:
    """Return the units in the first row below the header: words above numbers, in a row without any number.

    A limit of detection such as ``<5`` is a measurement, too.
    """
    if not rows or any(_is_number(cell.strip(_LIMITS)) for cell in rows[0]):
        return []
    units = {place: rows[0][place] for place in places if place < len(rows[0]) and not nulls.is_null(rows[0][place])}
    below = [row[place] for row in rows[1:] for place in units if place < len(row)]
    return list(units.values()) if any(map(_is_number, below)) else []


def _is_number(cell: str) -> bool:
    return as_number(cell.replace(",", ".")) is not None


def _check_columns(wanted: Collection[str], headers: Sequence[Sequence[str]], path: Path) -> None:
    """Refuse columns that no header has, or one has more than once."""
    known = {name for header in headers for name in header}
    for name in wanted:
        if name not in known:
            raise UserError(f"'{path}' has no column '{name}'; {nearest(name, known)}")
        if (count := max(header.count(name) for header in headers)) > 1:
            raise UserError(f"'{path}' has {count} columns named '{name}'; rename all but one")


def _not_utf8(path: Path) -> UserError:
    return UserError(f"'{path}' is not UTF-8; save it as CSV in UTF-8")
