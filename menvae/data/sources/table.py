"""A table in a CSV or Parquet file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from menvae.data.tables.table_file import Gaps, Table, read_table
from menvae.data.tables.tabular import TabularSource
from menvae.registry import register


@register("data", "table", reference="the lithology tables of the design reports")
@dataclass(frozen=True, kw_only=True)
class TableSource(TabularSource):
    """Rows of a CSV or Parquet file; the same content gives the same run, whichever of the two it is.

    Attributes:
        path: the file.
        label: column of the classes; empty where one is not known. None: no classes.
        group: column of what must not get into two splits, such as a drill hole or a patient; None: every row is on
            its own.
        gaps: what a row that lacks a number does: fail, or be left out (drop).
    """

    outside_identity: ClassVar[frozenset[str]] = TabularSource.outside_identity | {"path"}

    path: str
    label: str | None = None
    group: str | None = None
    gaps: Gaps = "fail"

    @property
    def location(self) -> str:
        """The file."""
        return self.path

    @property
    def gives(self) -> frozenset[str]:
        """Labels, if a column holds them."""
        return frozenset() if self.label is None else frozenset({"labels"})

    def table(self) -> Table:
        """Read the file."""
        path = Path(self.path).expanduser()
        return read_table(path, self.columns, self.label, self.group, self.gaps, self.target_columns)
