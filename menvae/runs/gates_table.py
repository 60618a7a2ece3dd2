"""The table of gates, for the terminal and the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from menvae.presentation.text import gate_meaning, significant

_KINDS = {"pass": "good", "fail": "bad", "undecided": "odd", "not computed": "odd"}


@dataclass(frozen=True)
class GateRow:
    """A gate, formatted; ``kind`` is ``good``, ``bad`` or ``odd`` (undecided or no value)."""

    name: str
    value: str
    interval: str
    target: str
    verdict: str
    kind: str
    reason: str
    meaning: str


def verdict_of(gate: Mapping[str, Any]) -> str:
    """Return the verdict of an entry of ``gates.json``; runs of earlier versions have none, only ``passed``.

    >>> verdict_of({"value": 0.9, "passed": True}), verdict_of({"value": None, "passed": False})
    ('pass', 'not computed')
    """
    value = gate.get("value")
    known = isinstance(value, int | float) and not math.isnan(value)
    earlier = "pass" if gate.get("passed") is True else "fail" if known else "not computed"
    given = str(gate.get("verdict") or earlier)
    return given if given in _KINDS else earlier


def gate_row(gate: Mapping[str, Any]) -> GateRow:
    """Return the row of an entry of ``gates.json``."""
    name, value = str(gate.get("name", "unnamed")), gate.get("value")
    target = gate.get("target")
    wanted = f"{target:g}" if isinstance(target, int | float) else str(target)
    verdict = verdict_of(gate)
    ends = [gate.get("low"), gate.get("high")]
    has_interval = all(isinstance(end, int | float) and math.isfinite(end) for end in ends)
    return GateRow(
        name=name,
        value=significant(value),
        interval=f"{significant(ends[0])} to {significant(ends[1])}" if has_interval else "",
        target=f"{gate.get('comparison', '>')} {wanted}",
        verdict=verdict,
        kind=_KINDS[verdict],
        reason=str(gate.get("reason") or ""),
        meaning=gate_meaning(gate),
    )


def entries(table: Any) -> list[Mapping[str, Any]]:
    """Return the gates of ``gates.json``, or of the part of another split; empty if it is damaged or missing."""
    listed = table.get("gates") if isinstance(table, Mapping) else None
    return [gate for gate in listed if isinstance(gate, Mapping)] if isinstance(listed, list) else []


def gates_table(gates: Sequence[Mapping[str, Any]], note: str = "", test: Sequence[Mapping[str, Any]] = ()) -> Table:
    """Make the table of gates: coloured on a terminal, plain in a log.

    Args:
        gates: entries of ``gates.json``: name, value (or None), target, comparison, passed, and optional ends of an
            interval, verdict and reason.
        note: a line below the table, such as the uncertainty in a small split.
        test: entries of the test split, with their own columns.

    Returns:
        A table for ``rich.console.Console.print``.
    """
    rows, of_test = [gate_row(gate) for gate in gates], {row.name: row for row in map(gate_row, test)}
    table = Table(box=box.SIMPLE_HEAD, title="Gates", title_justify="left", caption_justify="left", pad_edge=False)
    table.caption = Text(note) if note else None
    columns = {"gate": "left", "value": "right", "95 % interval": "right", "target": "right", "verdict": "left"}
    has_intervals = any(row.interval for row in (*rows, *of_test.values()))
    columns |= {"test": "right", "test interval": "right", "test verdict": "left"} if test else {}
    shown = [name for name in columns if has_intervals or "interval" not in name]
    for name in shown:
        table.add_column(name, justify=columns[name], no_wrap=True)  # type: ignore[arg-type]
    reasons = any(row.reason for row in (*rows, *of_test.values()))
    if reasons:
        table.add_column("reason", overflow="fold")
    for row in rows:
        other = of_test.get(row.name)
        # Text, not str: a reason may contain square brackets, which rich would read as markup.
        cells = {"gate": Text(row.name), "target": Text(row.target), **_cells(row, "value", "95 % interval", "verdict")}
        cells |= _cells(other, "test", "test interval", "test verdict") if other else {}
        why = "; ".join(dict.fromkeys(filter(None, (row.reason, other.reason if other else ""))))
        table.add_row(*(cells.get(name, Text("")) for name in shown), *([Text(why)] if reasons else []))
    return table


def _cells(row: GateRow, value: str, interval: str, verdict: str) -> dict[str, Text]:
    styles = {"good": "green", "bad": "bold red", "odd": "yellow"}
    return {value: Text(row.value), interval: Text(row.interval), verdict: Text(row.verdict, style=styles[row.kind])}
