"""The best finished points of a sweep: by its objectives, or by the gates that they pass."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from menvae.errors import UserError
from menvae.files import DamagedFileError, read_json
from menvae.presentation.text import significant
from menvae.runs.reading import value_at
from menvae.studies import objective_values, violations, words_of
from menvae.sweeps.runners import Fate
from menvae.sweeps.status import PointStatus
from menvae.sweeps.sweep import Sweep

_LARGER, _SMALLER = "maximize", "minimize"


@dataclass(frozen=True)
class Standing:
    """A point among the best, with the values that put it there, as text."""

    status: PointStatus
    values: tuple[str, ...]


@dataclass(frozen=True)
class Best:
    """The best points of a sweep.

    Attributes:
        title: what makes them the best.
        columns: names of their values.
        rows: the best first; in the order of the sweep if they form a front.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[Standing, ...]


class Standings:
    """Finds the best points again and again; the results of a finished run are read once.

    Args:
        sweep: the sweep.
    """

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep
        self._aims: tuple[Mapping[str, str], tuple[str, ...]] | None = None
        self._values: dict[str, list[float] | None] = {}
        self._gates: dict[str, Mapping[str, _Gate]] = {}
        self._last: tuple[list[str], Best | None] = ([], None)

    def __call__(self, statuses: Sequence[PointStatus]) -> Best | None:
        """Return the best of the finished points; None if none has a value."""
        finished = [status for status in statuses if status.fate == Fate.FINISHED]
        names = [status.point.run for status in finished]
        if names != self._last[0]:
            self._last = names, self._best(finished) if finished else None
        return self._last[1]

    def _best(self, finished: Sequence[PointStatus]) -> Best | None:
        if self._aims is None:
            self._aims = _aims(self._sweep.job_file(finished[0].point))
        if self._aims[0]:
            return self._by_objectives(finished, *self._aims)
        return self._by_gates(finished)

    def _by_objectives(
        self, finished: Sequence[PointStatus], objectives: Mapping[str, str], constraints: Sequence[str]
    ) -> Best | None:
        metrics = list(objectives)
        for status in finished:
            if status.point.run not in self._values:
                self._values[status.point.run] = _values(status.run_dir, metrics, constraints)
        known = [(status, values) for status in finished if (values := self._values[status.point.run]) is not None]
        if not known:
            return None
        passed = words_of(constraints)
        points = [values for _, values in known]
        larger = [objectives[metric] == _LARGER for metric in metrics]
        if len(metrics) == 1:
            order = sorted(range(len(known)), key=lambda index: points[index][0], reverse=larger[0])
            title = f"best points so far{passed}: {metrics[0]}, {objectives[metrics[0]]}"
        else:
            order = [index for index, is_best in enumerate(_front(points, larger)) if is_best]
            title = f"Pareto front so far{passed}: {len(order)} of {len(known)} finished points"
        rows = (Standing(known[index][0], tuple(map(significant, points[index]))) for index in order)
        return Best(title, tuple(metrics), tuple(rows))

    def _by_gates(self, finished: Sequence[PointStatus]) -> Best | None:
        for status in finished:
            if status.point.run not in self._gates:
                self._gates[status.point.run] = _gates(self._sweep.runs / status.point.run / "gates.json")
        known = [(status, gates) for status in finished if (gates := self._gates[status.point.run])]
        if not known:
            return None
        ranks = _mean_ranks([gates for _, gates in known])
        passed = [sum(gate.passed for gate in gates.values()) for _, gates in known]
        judged = [sum(gate.value is not None for gate in gates.values()) for _, gates in known]
        order = sorted(range(len(known)), key=lambda index: (-passed[index], ranks[index]))
        rows = (
            Standing(known[index][0], (f"{passed[index]}/{judged[index]}", f"{ranks[index]:.1f}")) for index in order
        )
        return Best(
            "best points so far: gates passed, then mean rank over the gates", ("passed", "mean rank"), tuple(rows)
        )


@dataclass(frozen=True)
class _Gate:
    value: float | None
    larger_is_better: bool
    passed: bool


def _aims(job_file: Path) -> tuple[Mapping[str, str], tuple[str, ...]]:
    """Return the objectives and constraints of the sweep of a job; empty if it has none or nobody knows."""
    try:
        found = value_at(read_json(job_file, {"config": dict}).get("config", {}), "sweep")
    except DamagedFileError:
        return {}, ()
    objectives = found.get("objectives") if isinstance(found, Mapping) else None
    if not isinstance(objectives, Mapping):
        return {}, ()
    known = {str(metric): str(way) for metric, way in objectives.items() if way in (_LARGER, _SMALLER)}
    return known, tuple(map(str, found.get("constraints", ())))


def _values(run_dir: Path | None, metrics: Sequence[str], constraints: Sequence[str]) -> list[float] | None:
    """Return the objectives of a finished run; None if it lacks one, or misses a constraint."""
    try:
        if run_dir is None or any(missed > 0 for missed in violations(run_dir, constraints).values()):
            return None
        return objective_values(run_dir, metrics)
    except (UserError, KeyError):  # no such metric, or a damaged or missing file
        return None


def _gates(path: Path) -> dict[str, _Gate]:
    """Return the gates of a finished run; empty if its ``gates.json`` is damaged or missing."""
    try:
        table = read_json(path, {"gates": list, "passed": bool})
    except DamagedFileError:
        return {}
    found = {}
    for gate in table.get("gates", []):
        if isinstance(gate, Mapping) and isinstance(gate.get("name"), str):
            value: Any = gate.get("value")
            number = float(value) if isinstance(value, int | float) else None
            found[gate["name"]] = _Gate(number, gate.get("comparison") != "<", gate.get("passed") is True)
    return found


def _mean_ranks(rows: Sequence[Mapping[str, _Gate]]) -> list[float]:
    """Return the rank of each row, averaged over the gates, as menvae-compare does; a gate without a value is last."""
    import numpy as np
    from scipy import stats

    names = dict.fromkeys(name for row in rows for name in row)
    columns = [stats.rankdata([_badness(row.get(name)) for row in rows]) for name in names]
    return [float(rank) for rank in np.mean(columns, axis=0)]


def _badness(gate: _Gate | None) -> float:
    """Return the value of a gate such that smaller is better; infinity without one."""
    if gate is None or gate.value is None:
        return math.inf
    return -gate.value if gate.larger_is_better else gate.value


def _front(points: Sequence[Sequence[float]], larger_is_better: Sequence[bool]) -> list[bool]:
    """Return whether each point is on the front."""
    import numpy as np

    from menvae.comparison.pareto import nondominated

    return nondominated(np.array(points, dtype=np.float64), larger_is_better)
