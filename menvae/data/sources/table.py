"""A table in a CSV or Parquet file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from menvae.configuration import path_of
from menvae.data.tables.table_file import Gaps, Table, read_table
from menvae.data.tables.tabular import TabularSource
from menvae.registry import register


@register("data", "table", reference="the lithology tables of the design reports")
@dataclass(frozen=True, kw_only=True)
class TableSource(TabularSource):
    """Rows of a CSV or Parquet file; the same content gives the same run in either format.

    Attributes:
        path: path of the file.
        label: class column; empty cells are unlabelled. None: no classes.
        group: column of units that splits keep whole, such as drill holes or patients; None treats each row as its own
            group.
        gaps: how to handle rows with missing inputs: ``fail``, or ``drop`` them.
    """

    outside_identity: ClassVar[frozenset[str]] = TabularSource.outside_identity | {"path"}

    path: str
    label: str | None = None
    group: str | None = None
    gaps: Gaps = "fail"

    @property
    def location(self) -> str:
        """The path of the file."""
        return self.path

    @property
    def gives(self) -> frozenset[str]:
        """Labels, if there is a label column."""
        return frozenset() if self.label is None else frozenset({"labels"})

    def table(self) -> Table:
        """Read the file."""
        path = path_of(self.path, "data.path")
        return read_table(path, self.columns, self.label, self.group, self.gaps, self.target_columns)
