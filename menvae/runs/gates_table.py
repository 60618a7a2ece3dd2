"""The table of gates, for the terminal and the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from menvae.presentation.text import gate_meaning, significant

_WORDS = ("gate", "split", "verdict")
_STYLES = {"good": "green", "bad": "bold red", "odd": "yellow"}
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


def judged_gates(
    table: Mapping[str, Any], splits: Sequence[str] = ("val", "test")
) -> dict[str, list[Mapping[str, Any]]]:
    """Return split -> its gates, without splits that have none.

    Args:
        table: content of ``gates.json``: the gates of the first split, and those of others by their names.
        splits: the judged splits, the first one first.
    """
    first, *others = splits
    found = {first: entries(table), **{name: entries(table.get(name)) for name in others}}
    return {name: gates for name, gates in found.items() if gates}


def gates_table(judged: Mapping[str, Sequence[Mapping[str, Any]]], note: str = "") -> RenderableType:
    """Make the table of gates: coloured on a terminal, plain in a log, and not wider than 80 columns.

    Every split has a line of its own per gate. Reasons and the note are below the table.

    Args:
        judged: split -> entries of ``gates.json``: name, value (or None), target, comparison, passed, and optional ends
            of an interval, verdict and reason.
        note: a line below the table, such as the uncertainty in a small split.

    Returns:
        What ``rich.console.Console.print`` prints.
    """
    rows = {name: {row.name: row for row in map(gate_row, gates)} for name, gates in judged.items()}
    gates = dict.fromkeys(gate for of_split in rows.values() for gate in of_split)
    shown = ["gate", *(["split"] * (len(judged) > 1)), "value"]
    shown += ["95 % interval"] * any(row.interval for of_split in rows.values() for row in of_split.values())
    shown += ["target", "verdict"]
    table = Table(box=box.SIMPLE_HEAD, title="Gates", title_justify="left", show_edge=False, padding=(0, 1, 0, 0))
    for name in shown:
        table.add_column(name, justify="left" if name in _WORDS else "right", no_wrap=name != "gate", overflow="fold")
    reasons: dict[str, list[str]] = {}
    for gate in gates:
        for place, (split, row) in enumerate((name, found[gate]) for name, found in rows.items() if gate in found):
            # Text, not str: rich would read square brackets as markup
            words = {"gate": gate if place == 0 else "", "split": split, "value": row.value, "target": row.target}
            cells = {name: Text(word) for name, word in {**words, "95 % interval": row.interval}.items()}
            cells["verdict"] = Text(row.verdict, style=_STYLES[row.kind])
            table.add_row(*(cells[name] for name in shown))
            if row.reason:
                reasons.setdefault(row.reason, []).append(f"{gate} ({split})" if len(judged) > 1 else gate)
    lines = [f"{', '.join(names)}: {reason}" for reason, names in reasons.items()]
    return Group(table, *(Text(line) for line in (*lines, *([note] if note else []))))
