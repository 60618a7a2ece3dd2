"""The best finished points of a sweep, or configurations: by its objectives, or by the gates that they pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from menvae.errors import UserError
from menvae.files import DamagedFileError, read_json
from menvae.presentation.text import significant
from menvae.runs.reading import value_at
from menvae.studies import objective_values, violations, words_of
from menvae.sweeps.runners import Fate
from menvae.sweeps.status import PointStatus
from menvae.sweeps.sweep import Sweep, label_of
from menvae.sweeps.words import label_with_stand_ins

if TYPE_CHECKING:
    from menvae.comparison.judged import GateValue
    from menvae.comparison.replicates import Replicates
    from menvae.comparison.swept_keys import SweptKey
    from menvae.comparison.tracked_runs import TrackedRun

_LARGER, _SMALLER = "maximize", "minimize"
_MOST_NUMBERS = 3


@dataclass(frozen=True)
class Standing:
    """A configuration among the best.

    Attributes:
        statuses: its finished points, which differ in seed and fold only.
        label: its overrides.
        values: what puts it there, as text.
    """

    statuses: tuple[PointStatus, ...]
    label: str
    values: tuple[str, ...]

    @property
    def numbers(self) -> str:
        """The numbers of its points, the first ones if they are many."""
        numbers = [str(status.point.number) for status in self.statuses]
        return ", ".join([*numbers[:_MOST_NUMBERS], *["..."] * (len(numbers) > _MOST_NUMBERS)])


@dataclass(frozen=True)
class Best:
    """The best points of a sweep, or configurations.

    Attributes:
        title: what makes them the best.
        columns: names of their values.
        rows: the best first; in the order of the sweep if they form a front.
        are_means: whether values are means over seeds or folds: a lucky fold is not the best configuration.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[Standing, ...]
    are_means: bool = False


class Standings:
    """Finds the best points again and again; the results of a finished run are read once.

    Args:
        sweep: the sweep.
    """

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep
        self._aims: tuple[Mapping[str, str], tuple[str, ...]] | None = None
        self._values: dict[str, list[float] | None] = {}
        self._gates: dict[str, Mapping[str, GateValue]] = {}
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
        grouped = _Grouped.of({status.point.run: status for status in finished}, {})
        # a mean over some of the runs would favour a configuration whose bad runs have no value, or miss a constraint
        rows_of_runs = [[(run.name, self._values[run.name]) for run in group] for group in grouped.configurations()]
        known = [{run: values for run, values in rows if values is not None} for rows in rows_of_runs]
        groups = [found for found, rows in zip(known, rows_of_runs, strict=True) if len(found) == len(rows)]
        if not groups:
            return None
        passed = words_of(constraints)
        points = [[fmean(column) for column in zip(*group.values(), strict=True)] for group in groups]
        larger = [objectives[metric] == _LARGER for metric in metrics]
        if len(metrics) == 1:
            order = sorted(range(len(groups)), key=lambda index: points[index][0], reverse=larger[0])
            title = f"best {grouped.noun}s so far{passed}: {metrics[0]}, {objectives[metrics[0]]}{grouped.words}"
        else:
            order = [index for index, is_best in enumerate(_front(points, larger)) if is_best]
            title = (
                f"Pareto front so far{passed}: {len(order)} of {len(groups)} finished {grouped.noun}s{grouped.words}"
            )
        rows = (grouped.standing(list(groups[index]), map(significant, points[index])) for index in order)
        return Best(title, (*metrics, *grouped.columns), tuple(rows), grouped.are_means)

    def _by_gates(self, finished: Sequence[PointStatus]) -> Best | None:
        from menvae.comparison.compare import gates_of, ranked_configurations
        from menvae.comparison.judged import read_gates

        for status in finished:
            if status.point.run not in self._gates:
                self._gates[status.point.run] = read_gates(self._sweep.runs / status.point.run / "gates.json").gates
        known = {status.point.run: status for status in finished if self._gates[status.point.run]}
        if not known:
            return None
        grouped = _Grouped.of(known, self._gates)
        gates, _ = gates_of(grouped.runs)
        ranked = ranked_configurations(grouped.runs, "", grouped.keys, gates, grouped.replicates)
        rows = (
            grouped.standing(
                [run.name for run in one.runs],
                (f"{_short(one.gates_passed)}/{_short(one.gates_judged)}", f"{one.mean_rank:.1f}"),
            )
            for one in ranked
        )
        return Best(
            f"best {grouped.noun}s so far: gates passed, then mean rank over the gates{grouped.words}",
            ("passed", "mean rank", *grouped.columns),
            tuple(rows),
            grouped.are_means,
        )


@dataclass(frozen=True)
class _Grouped:
    """Finished points as menvae-compare takes runs: those that differ only in seed and fold are replicates.

    Attributes:
        statuses: {run: status}.
        runs: the runs, without repetitions.
        keys: the keys that tell configurations apart.
        replicates: the keys that tell the runs of one configuration apart.
        are_means: whether a configuration has several runs.
    """

    statuses: Mapping[str, PointStatus]
    runs: Sequence[TrackedRun]
    keys: Sequence[SweptKey]
    replicates: Replicates
    are_means: bool

    @classmethod
    def of(cls, statuses: Mapping[str, PointStatus], gates: Mapping[str, Mapping[str, GateValue]]) -> _Grouped:
        """Group points by their overrides; everything else is the same for all points of a sweep.

        Args:
            statuses: {run: status}.
            gates: {run: its gates}; empty if they do not matter.
        """
        from menvae.comparison.grouping import configurations_of, without_repetitions
        from menvae.comparison.replicates import FOLD, Replicates
        from menvae.comparison.swept_keys import swept_keys
        from menvae.comparison.tracked_runs import TrackedRun

        all_runs = [
            TrackedRun(run_id=run, name=run, params=status.point.values, gates=gates.get(run, {}))
            for run, status in statuses.items()
        ]
        keys, replicates = swept_keys(all_runs, replicates=(FOLD,)), Replicates.of((FOLD,), all_runs)
        runs, _ = without_repetitions(all_runs, keys, replicates)
        return cls(statuses, runs, keys, replicates, len(configurations_of(runs, keys)) < len(runs))

    @property
    def noun(self) -> str:
        """What is ranked."""
        return "configuration" if self.are_means else "point"

    @property
    def words(self) -> str:
        """What values are means over, for a title; empty if they are none."""
        return f" (means over {self.replicates.words})" if self.are_means else ""

    @property
    def columns(self) -> tuple[str, ...]:
        """The further columns of `standing`."""
        return ("runs",) if self.are_means else ()

    def configurations(self) -> list[list[TrackedRun]]:
        """Return the runs of each configuration."""
        from menvae.comparison.grouping import configurations_of

        return configurations_of(self.runs, self.keys)

    def standing(self, names: Sequence[str], values: Iterable[str]) -> Standing:
        """Return a row: values of a configuration, given by the names of its runs."""
        from menvae.comparison.replicates import FOLD

        statuses = sorted((self.statuses[name] for name in names), key=lambda status: status.point.number)
        if not self.are_means:
            return Standing(tuple(statuses), label_with_stand_ins(statuses[0]), tuple(values))
        own = [f"{key}={value}" for key, value in statuses[0].point.values.items() if key not in ("seed", FOLD)]
        return Standing(tuple(statuses), label_of(own), (*values, str(len(statuses))))


def _short(number: float) -> str:
    """Format a mean of counts.

    >>> _short(2.0), _short(5 / 3)
    ('2', '1.7')
    """
    return f"{number:.0f}" if number.is_integer() else f"{number:.1f}"


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


def _front(points: Sequence[Sequence[float]], larger_is_better: Sequence[bool]) -> list[bool]:
    """Return whether each point is on the front."""
    import numpy as np

    from menvae.comparison.pareto import nondominated

    return nondominated(np.array(points, dtype=np.float64), larger_is_better)
