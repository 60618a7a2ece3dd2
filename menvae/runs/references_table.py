"""The table of R2 beside references, for the terminal and the report, from ``evaluation.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich import box
from rich.table import Table
from rich.text import Text

from menvae.presentation.text import significant

COLUMNS: Final[Mapping[str, str]] = {
    "floor": "floor",
    "ceiling": "ceiling",
    "segmented": "segment, then measure",
}
"""Kind of reference -> header of its column."""


@dataclass(frozen=True)
class ReferenceRows:
    """Rows of a table of R2.

    Attributes:
        columns: headers of the values: this run, and the kinds of references of which there is any.
        rows: partition or target, split, and values: entries of ``evaluation.json``, empty if missing.
    """

    columns: Sequence[str]
    rows: Sequence[tuple[str, str, Sequence[Mapping[str, Any]]]]


def references_table(described: Mapping[str, Any], partitions: Sequence[str]) -> Table | None:
    """Make the table of the R2 of each partition beside its references, or return None without references.

    Args:
        described: content of ``evaluation.json``.
        partitions: names of the supervised partitions.
    """
    found = reference_rows(described, partitions)
    rows = [row for row in found.rows if row[0] in partitions]
    if not rows:
        return None
    table = Table(box=box.SIMPLE_HEAD, title="R² beside references", title_justify="left", pad_edge=False)
    for name in ("partition", "split", *found.columns):
        table.add_column(name, justify="left" if name in ("partition", "split") else "right", no_wrap=True)
    for name, split, values in rows:
        table.add_row(Text(name), Text(split), *(significant(value.get("value")) for value in values))
    return table


def reference_rows(described: Mapping[str, Any], partitions: Sequence[str]) -> ReferenceRows:
    """Return the rows of tables, those of partitions first; none if there are no references or the file is damaged.

    Args:
        described: content of ``evaluation.json``.
        partitions: names of the supervised partitions.
    """
    references = {split: _mapping(of_split) for split, of_split in _mapping(described.get("references")).items()}
    all_kinds = {kind for of_split in references.values() for kinds in of_split.values() for kind in _mapping(kinds)}
    kinds = [kind for kind in COLUMNS if kind in all_kinds]
    names = list(dict.fromkeys(name for of_split in references.values() for name in of_split))
    names.sort(key=lambda name: partitions.index(name) if name in partitions else len(partitions))
    rows = []
    for name in names:
        for split, of_split in references.items():
            if name in of_split:
                judged = _mapping(_mapping(_mapping(described.get("splits")).get(split)).get("metrics"))
                beside = _mapping(of_split[name])
                own = _mapping(judged.get(f"sem/{name}_r2"))
                rows.append((name, split, [own, *(_mapping(beside.get(kind)) for kind in kinds)]))
    return ReferenceRows(["run", *(COLUMNS[kind] for kind in kinds)], rows)


def _mapping(found: object) -> Mapping[str, Any]:
    return found if isinstance(found, Mapping) else {}
