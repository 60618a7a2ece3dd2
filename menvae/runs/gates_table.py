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


@dataclass(frozen=True)
class GateRow:
    """A gate, formatted; ``kind`` is ``good``, ``bad`` or ``odd`` (no value)."""

    name: str
    value: str
    target: str
    verdict: str
    kind: str
    reason: str
    meaning: str


def gate_row(gate: Mapping[str, Any]) -> GateRow:
    """Return the row of an entry of ``gates.json``."""
    name, value = str(gate.get("name", "unnamed")), gate.get("value")
    known = isinstance(value, int | float) and not math.isnan(value)
    target = gate.get("target")
    wanted = f"{target:g}" if isinstance(target, int | float) else str(target)
    if gate.get("passed") is True:
        verdict, kind = "pass", "good"
    else:
        verdict, kind = ("fail", "bad") if known else ("not computed", "odd")
    return GateRow(
        name=name,
        value=significant(value),
        target=f"{gate.get('comparison', '>')} {wanted}",
        verdict=verdict,
        kind=kind,
        reason=str(gate.get("reason") or ""),
        meaning=gate_meaning(gate),
    )


def gates_table(gates: Sequence[Mapping[str, Any]], note: str = "") -> Table:
    """Make the table of gates: coloured on a terminal, plain in a log.

    Args:
        gates: entries of ``gates.json``: name, value (or None), target, comparison, passed and an optional reason.
        note: a line below the table, such as the uncertainty in a small split.

    Returns:
        A table for ``rich.console.Console.print``.
    """
    rows = [gate_row(gate) for gate in gates]
    table = Table(box=box.SIMPLE_HEAD, title="Gates", title_justify="left", caption_justify="left", pad_edge=False)
    table.caption = Text(note) if note else None
    table.add_column("gate", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("target", justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    reasons = any(row.reason for row in rows)
    if reasons:
        table.add_column("reason", overflow="fold")
    styles = {"good": "green", "bad": "bold red", "odd": "yellow"}
    for row in rows:
        # Text, not str: a reason may contain square brackets, which rich would read as markup.
        cells = [Text(row.name), Text(row.value), Text(row.target), Text(row.verdict, style=styles[row.kind])]
        table.add_row(*cells, *([Text(row.reason)] if reasons else []))
    return table
