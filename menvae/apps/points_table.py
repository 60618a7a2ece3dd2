"""A table of points of a sweep: a CSV or YAML file whose columns are keys."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from menvae.apps.configuration_files import yaml_content
from menvae.errors import UserError

_DELIMITERS = ",;\t"
_YAML = (".yaml", ".yml")


def read_points(path: Path) -> dict[str, list[Any]]:
    """Return key -> value in each row.

    A CSV file is separated by commas, semicolons or tabs; its cells are read as YAML, so that ``1e-3`` is a number,
    ``[1, 2]`` a list, ``true`` a truth value and ``null`` none. A YAML file is a list with one mapping a row.

    Args:
        path: the file.

    Raises:
        UserError: the file cannot be read, a key is given twice, or a row lacks a value.
    """
    where = f"sweep.points: '{path}'"
    if path.suffix.lower() not in (".csv", ".tsv", *_YAML):
        raise UserError(f"{where} is not a table of points; it should be a file .csv, .tsv, .yaml or .yml")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{where} does not exist") from None
    except UnicodeDecodeError:
        raise UserError(f"{where} is not a text file in UTF-8") from None
    except IsADirectoryError:
        raise UserError(f"{where} is a folder; give a file") from None
    except OSError as error:
        raise UserError(f"{where} cannot be read: {error.strerror}") from None
    columns, rows = _of_yaml(text, where) if path.suffix.lower() in _YAML else _of_csv(text, where)
    if not columns or not rows:
        raise UserError(f"{where} contains no points")
    return {key: [row[index] for row in rows] for index, key in enumerate(columns)}


def _of_csv(text: str, where: str) -> tuple[Sequence[str], list[list[Any]]]:
    """Return columns and rows of a CSV text; raises `UserError`."""
    header = text.lstrip().partition("\n")[0]
    reader = csv.reader(io.StringIO(text), delimiter=max(_DELIMITERS, key=header.count), strict=True)
    columns: list[str] = []
    rows: list[list[Any]] = []
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            line = f"{where}, line {reader.line_num}"
            if not any(stripped):
                continue
            if not columns:
                columns = stripped
                _check_columns(columns, where)
                continue
            if len(stripped) != len(columns):
                raise UserError(f"{line} has {len(stripped)} cells, but there are {len(columns)} columns")
            if "" in stripped:
                key = columns[stripped.index("")]
                raise UserError(f"{line} has no value of {key}; write null for none, or the value of the other points")
            rows.append([_cell(cell, line) for cell in stripped])
    except csv.Error as error:
        raise UserError(f"{where}, line {reader.line_num} is not valid CSV: {error}") from None
    return columns, rows


def _of_yaml(text: str, where: str) -> tuple[Sequence[str], list[list[Any]]]:
    """Return columns and rows of a YAML text; raises `UserError`."""
    try:
        content = yaml_content(text)
    except yaml.YAMLError as error:
        raise UserError(f"{where} is not valid YAML: {_first_line(error)}") from None
    if not isinstance(content, list) or not all(isinstance(row, Mapping) and row for row in content):
        raise UserError(f"{where} should be a list with one mapping a point, such as - {{seed: 1, model.z_dim: 64}}")
    columns = [str(key) for key in content[0]] if content else []
    _check_columns(columns, where)
    for number, row in enumerate(content, 1):
        keys = [str(key) for key in row]
        if odd := [key for key in (*columns, *keys) if (key in columns) != (key in keys)]:
            what = "has no value of" if odd[0] in columns else "alone has a value of"
            raise UserError(f"{where}, point {number} {what} {odd[0]}; every point needs the same keys")
    return columns, [[_plain(row[key]) for key in content[0]] for row in content]


def _check_columns(columns: Sequence[str], where: str) -> None:
    """Check that every column has a name, and no key two columns; raises `UserError`."""
    keys = [column.lstrip("+") for column in columns]
    for key in keys:
        if not key:
            raise UserError(f"{where} has a column without a name; columns are keys such as model.z_dim")
        if keys.count(key) > 1:
            raise UserError(f"{where} has two columns of {key}")


def _cell(cell: str, line: str) -> Any:
    try:
        return _value(cell)
    except yaml.YAMLError as error:
        raise UserError(f"{line}: '{cell}' is not a value: {_first_line(error)}; put text into quotes") from None


@cache
def _value(cell: str) -> Any:
    return _plain(yaml_content(cell))


def _plain(value: Any) -> Any:
    """Return a value of YAML with dates, which configurations do not have, as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _first_line(error: yaml.YAMLError) -> str:
    problem = getattr(error, "problem", None)
    return str(problem or error).splitlines()[0]
