"""Sortable tables of a page: every cell shows a rounded value and stores the exact one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from menvae.presentation.text import significant

_SCRIPT = Path(__file__).with_name("templates") / "sortable.js"


def sorting_script() -> str:
    """Return the script of a page whose tables can be sorted."""
    return _SCRIPT.read_text(encoding="utf-8")


@dataclass(frozen=True)
class Column:
    """Header of a sortable column; ``first`` is the direction of the first click."""

    name: str
    is_number: bool = True
    first: str = "ascending"
    wanted: str = ""
    title: str = ""


@dataclass(frozen=True)
class Cell:
    """A cell: shown text, exact value to sort by, CSS class, tooltip, and link."""

    text: str
    value: str = ""
    kind: str = "number"
    title: str = ""
    link: str = ""


@dataclass(frozen=True)
class Table:
    """A table with its identifier on the page; every row has one cell per column."""

    identifier: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""


def number_cell(value: float | None, text: str | None = None, kind: str = "") -> Cell:
    """Return a cell that shows a number rounded and stores it in full precision."""
    exact = "" if value is None else repr(value)
    return Cell(significant(value) if text is None else text, exact, f"number {kind}".strip(), exact)
