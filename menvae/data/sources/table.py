"""A table in a CSV file, a Parquet file or a folder of Parquet files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from menvae.configuration import path_of
from menvae.data.tables.table_file import Gaps, Table, read_table
from menvae.data.tables.tabular import TabularSource
from menvae.registry import register


@register("data", "table", reference="the lithology tables of the design reports")
@dataclass(frozen=True, kw_only=True)
class TableSource(TabularSource):
    """Rows of a table; the same content gives the same run in every file format.

    Empty cells, nulls, NaN and words such as NA, NULL or None (`menvae.files.NULL_WORDS`) are missing
    values in every column.

    Attributes:
        path: path of a CSV file (separated by commas, semicolons or tabs; ``.csv.gz`` if compressed), a Parquet file or
            a folder of Parquet files.
        label: class column; rows where it is missing are unlabelled. None: no classes.
        group: column of units that splits keep whole, such as drill holes or patients; None treats each row as its own
            group.
        gaps: how to handle rows with missing inputs: ``fail``, or ``drop`` them.
        null_values: further numbers and words that mark missing values in every column, such as -999.25 in well logs.
            They describe the file, as ``path`` does: the data hash covers their effect.
    """

    outside_identity: ClassVar[frozenset[str]] = TabularSource.outside_identity | {"path", "null_values"}

    path: str
    label: str | None = None
    group: str | None = None
    gaps: Gaps = "fail"
    null_values: tuple[float | str, ...] = ()

    @property
    def location(self) -> str:
        """The path of the file."""
        return self.path

    @property
    def files(self) -> Sequence[Path]:
        """The table, and the file of another run."""
        return [path_of(self.path, "data.path"), *self.files_of_others]

    @property
    def gives(self) -> frozenset[str]:
        """Labels, if there is a label column."""
        return frozenset() if self.label is None else frozenset({"labels"})

    def table(self) -> Table:
        """Read the file."""
        return read_table(
            path_of(self.path, "data.path"),
            self.columns,
            self.label,
            self.group,
            self.gaps,
            self.target_columns,
            self.null_values,
        )
