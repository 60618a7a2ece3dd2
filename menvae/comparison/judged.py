"""How a run was judged: its ``gates.json`` and ``evaluation.json``, which earlier versions wrote with less in them."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from menvae.presentation.text import gate_meaning
from menvae.runs.gates_table import verdict_of
from menvae.runs.reading import final_values, read_mapping

Comparison = Literal[">", "<"]
JudgedSplit = Literal["val", "test"]


@dataclass(frozen=True, slots=True)
class GateValue:
    """One gate of one run on one split, from its ``gates.json``.

    Attributes:
        name: name of the gate.
        value: measured value; None if it could not be computed.
        target: the least acceptable value.
        comparison: ``>`` if larger is better, ``<`` if smaller is better.
        passed: whether the run passed the gate.
        reason: why there is no value, or empty.
        meaning: what it measures, in one sentence; empty if unknown.
        metric: key of the metric that it bounds; empty in files of earlier versions.
        interval: 95 % interval over patients; None without one, as in files of earlier versions.
        verdict: ``pass``, ``fail``, ``undecided`` or ``not computed``.
    """

    name: str
    value: float | None
    target: float
    comparison: Comparison
    passed: bool
    reason: str = ""
    meaning: str = ""
    metric: str = ""
    interval: tuple[float, float] | None = None
    verdict: str = "not computed"

    @classmethod
    def from_entry(cls, entry: Mapping[str, Any]) -> GateValue:
        """Read an entry of ``gates.json``.

        Raises:
            KeyError, TypeError, ValueError: it is damaged.
        """
        comparison, value = entry["comparison"], _number(entry["value"])
        if comparison not in (">", "<"):
            raise ValueError(f"comparison {comparison!r} is neither > nor <")
        low, high = _number(entry.get("low")), _number(entry.get("high"))
        return cls(
            name=sys.intern(str(entry["name"])),
            value=value,
            target=float(entry["target"]),
            comparison=comparison,
            passed=entry["passed"] is True,
            reason=str(entry.get("reason") or ""),
            meaning=sys.intern(gate_meaning(entry)),
            metric=sys.intern(str(entry.get("metric") or "")),
            interval=None if low is None or high is None else (low, high),
            verdict=verdict_of({**entry, "value": value}),
        )


@dataclass(frozen=True, slots=True)
class LeakValue:
    """What a partition says about a target of another one, by the probe that reads more.

    Attributes:
        target: the target.
        source: the partition that is read.
        value: R2 beyond what the targets of the source say.
        is_above_null: whether the value exceeds its permutation null.
    """

    target: str
    source: str
    value: float
    is_above_null: bool


@dataclass(frozen=True)
class Judged:
    """Everything that was judged of a run; see `menvae.comparison.tracked_runs.TrackedRun` for the attributes."""

    gates: Mapping[str, GateValue] = field(default_factory=dict)
    test_gates: Mapping[str, GateValue] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)
    leaks: Mapping[str, Sequence[LeakValue]] = field(default_factory=dict)


def read_gates(path: Path) -> Judged:
    """Read the gates of both splits; a damaged part of the file counts as missing."""
    table = read_mapping(path)
    return Judged(_gates(table), _gates(table.get("test")))


def read_evaluation(path: Path, judged: Judged) -> Judged:
    """Return ``judged`` with figures and leaks of ``evaluation.json``, or as it is if the file is damaged."""
    described = read_mapping(path)
    try:
        figures = {
            sys.intern(key): known
            for key, value in final_values(described).items()
            if (known := _number(value)) is not None
        }
        leaks = {str(split): _leaks(found.get("leaks") or ()) for split, found in described["splits"].items()}
    except (AttributeError, KeyError, TypeError):
        return judged
    return replace(judged, figures=figures, leaks={split: found for split, found in leaks.items() if found})


def _gates(table: Any) -> dict[str, GateValue]:
    """Return the gates of one split by name; none if they are missing or damaged."""
    try:
        return {sys.intern(str(entry["name"])): GateValue.from_entry(entry) for entry in table["gates"]}
    except (AttributeError, KeyError, TypeError, ValueError):
        return {}


def _leaks(rows: Sequence[Mapping[str, Any]]) -> tuple[LeakValue, ...]:
    """Return the leaks of ``evaluation.json``, one per target and foreign partition, the largest first."""
    largest: dict[tuple[str, str], LeakValue] = {}
    for row in rows:
        value, null = _number(row["conditional"]), _number(row["null"])
        if value is None or row["partition"] == row["source"]:
            continue
        leak = LeakValue(str(row["target"]), str(row["source"]), value, null is not None and value > max(0.0, null))
        before = largest.get((leak.target, leak.source))
        if before is None or (leak.is_above_null, leak.value) > (before.is_above_null, before.value):
            largest[leak.target, leak.source] = leak
    return tuple(sorted(largest.values(), key=lambda leak: (-leak.is_above_null, -leak.value)))


def _number(value: object) -> float | None:
    if type(value) is float:  # nearly all are
        return value if math.isfinite(value) else None
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None  # type: ignore[arg-type]
