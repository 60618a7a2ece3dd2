"""A comparison as CSV files in full precision: one row per run, and one row per configuration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from menvae.comparison.judged import GateValue
from menvae.comparison.pareto import Objective
from menvae.comparison.replicates import overlap
from menvae.comparison.results import Comparison, Configuration, Difference, OutOfFold, Summary
from menvae.comparison.summaries import summarise
from menvae.comparison.swept_keys import ABSENT
from menvae.comparison.tracked_runs import TrackedRun
from menvae.comparison.words import front_mark, largest_leaks, pooled_gates, verdict_counts
from menvae.files import write_table

Row = dict[str, object]

_ENDS = ("/low", "/high")


def write_runs(comparison: Comparison, path: Path) -> Path:
    """Write one row per run, with everything that differs between runs; return ``path``.

    Columns of a gate: ``<gate>``, ``<gate>/low`` and ``<gate>/high`` (95 % interval over patients), ``<gate>/verdict``;
    ``test/<gate>`` for the test split. The last columns are the numbers of ``evaluation.json``, named as in MLflow:
    ``final/<split>/<metric>``, with ``/low`` and ``/high``.
    """
    keys = [name for key in comparison.keys for name in (key.name, *key.followers)]
    names = [gate.name for gate in comparison.gates]
    has_leaks = any(run.leaks for one in comparison.rows for run in one.runs)
    has_stand_ins = any(run.stands_for for one in comparison.rows for run in one.runs)
    rows = (
        _run_row(comparison, one, run, keys, names, has_leaks=has_leaks, has_stand_ins=has_stand_ins)
        for one in comparison.rows
        for run in one.runs
    )
    figures = sorted({name for one in comparison.rows for run in one.runs for name in run.figures})
    return _write(path, rows, figures)


def write_configurations(comparison: Comparison, path: Path) -> Path:
    """Write one row per configuration, with mean, deviation and interval over its replicates; return ``path``.

    Columns of a gate: ``<gate>`` (mean over the replicates), ``<gate>/sd``, ``<gate>/low`` and ``<gate>/high`` (95 %
    t-interval of the mean), and the number of runs by verdict, ``<gate>/pass``, ...; ``test/<gate>`` for the test
    split. ``<gate>/difference`` is that from the baseline, with ``/low``, ``/high``, ``/p`` (its p-value) and ``/q``
    (adjusted for the number of tests). Of folds, ``out_of_fold/<metric>`` are pooled predictions of all folds, with the
    interval over patients, and ``out_of_fold/<metric>/difference``. The last columns are the numbers of
    ``evaluation.json`` over the replicates, ``final/<split>/<metric>``.
    """
    pooled = _Pooled.of(comparison)
    rows = (_configuration_row(comparison, one, pooled) for one in comparison.rows)
    figures = _figures([run for one in comparison.rows for run in one.runs])
    return _write(path, rows, [f"{name}{ending}" for name in figures for ending in ("", "/sd", *_ENDS)])


def _run_row(
    comparison: Comparison,
    one: Configuration,
    run: TrackedRun,
    keys: Sequence[str],
    names: Sequence[str],
    *,
    has_leaks: bool,
    has_stand_ins: bool,
) -> Row:
    row: Row = {"configuration": one.number, "data": one.cohort}
    row |= {key: run.params.get(key, ABSENT) for key in (*keys, *comparison.replicates.keys)} | {"seed": run.seed}
    row |= {name: run.gates[name].value if name in run.gates else None for name in names}
    row |= {
        "gates_passed": sum(gate.passed for gate in run.gates.values()),
        "run": run.name,
        "run_id": run.run_id,
        "state": run.state,
        "test_gates_passed": sum(gate.passed for gate in run.test_gates.values()) if run.test_gates else None,
        "passed": run.passed,
    }
    for name in names:
        row |= _about(name, run.gates.get(name))
    if "test" in comparison.splits:
        for name in names:
            gate = run.test_gates.get(name)
            row |= {f"test/{name}": None if gate is None else gate.value, **_about(f"test/{name}", gate)}
    if has_leaks:
        row |= {"largest_leaks": largest_leaks(run, "val"), "test/largest_leaks": largest_leaks(run, "test")}
    if has_stand_ins:
        row["stands_for"] = " ".join(run.stands_for)
    return row | dict(run.figures)


def _about(name: str, gate: GateValue | None) -> Row:
    low, high = (None, None) if gate is None or gate.interval is None else gate.interval
    return {f"{name}/low": low, f"{name}/high": high, f"{name}/verdict": None if gate is None else gate.verdict}


def _configuration_row(comparison: Comparison, one: Configuration, pooled: _Pooled) -> Row:
    cohort = next(cohort for cohort in comparison.cohorts if cohort.label == one.cohort)
    row: Row = {"configuration": one.number, "data": one.cohort, **one.values, "seeds": len({r.seed for r in one.runs})}
    row |= {"runs": len(one.runs)} if comparison.replicates.keys else {}
    row |= {"gates_passed": one.gates_passed, "test_gates_passed": one.test_gates_passed}
    row |= {"runs_passed": one.num_runs_passed, "front": front_mark(cohort, one), "mean_rank": one.mean_rank}
    for split in comparison.splits:
        summaries = one.summaries(split)
        for gate in comparison.gates:
            name = gate.name if split == "val" else f"{split}/{gate.name}"
            row |= dict(_over_replicates(name, summaries.get(gate.name)))
            counts = verdict_counts(one, gate.name, split)
            row |= {f"{name}/{verdict}": count for verdict, count in counts.items()}
    for gate in comparison.gates:
        row |= dict(_difference(gate.name, cohort.differences.get(one.number, {}).get(gate.name)))
    row |= pooled.row(cohort.out_of_fold.get(one.number))
    shared = overlap(one.runs)
    for name in _figures(one.runs):
        values = {comparison.replicates.name(run): run.figures.get(name) for run in one.runs}
        row |= dict(_over_replicates(name, summarise(values, shared)))
    return row


@dataclass(frozen=True)
class _Pooled:
    """Columns of pooled predictions; none if no configuration has any."""

    keys: Sequence[str]
    gates: Sequence[Objective]

    @classmethod
    def of(cls, comparison: Comparison) -> _Pooled:
        found = [one for cohort in comparison.cohorts for one in cohort.out_of_fold.values()]
        return cls(sorted({key for one in found for key in one.metrics}), pooled_gates(comparison))

    def row(self, found: OutOfFold | None) -> Row:
        """Return the columns of one configuration."""
        row: Row = {"out_of_fold/subjects": None if found is None else found.num_subjects} if self.keys else {}
        for key in self.keys:
            row |= dict(_over_replicates(f"out_of_fold/{key}", None if found is None else found.metrics.get(key)))
        for gate in self.gates:
            one = None if found is None else found.differences.get(gate.name)
            row |= dict(_difference(f"out_of_fold/{gate.metric}", one))
        return row


def _figures(runs: Sequence[TrackedRun]) -> list[str]:
    """Return the figures of runs, without the ends of their intervals over patients."""
    return sorted({name for run in runs for name in run.figures if not name.endswith(_ENDS)})


def _difference(name: str, one: Difference | None) -> Iterator[tuple[str, float | None]]:
    low, high = (None, None) if one is None or one.interval is None else one.interval
    yield f"{name}/difference", None if one is None else one.mean
    yield f"{name}/difference/low", low
    yield f"{name}/difference/high", high
    yield f"{name}/difference/p", None if one is None else one.p_value
    yield f"{name}/difference/q", None if one is None else one.q_value


def _over_replicates(name: str, summary: Summary | None) -> Iterator[tuple[str, float | None]]:
    interval = None if summary is None else summary.interval
    yield name, None if summary is None else summary.mean
    yield f"{name}/sd", None if summary is None else summary.deviation
    yield f"{name}/low", None if interval is None else interval[0]
    yield f"{name}/high", None if interval is None else interval[1]


def _write(path: Path, rows: Iterator[Row], figures: Sequence[str]) -> Path:
    """Write rows, made one by one; those of runs without some of the figures are blank there."""
    first, of_figures = next(rows), set(figures)
    columns = [*(name for name in first if name not in of_figures), *figures]
    return write_table(path, columns, ([row.get(name) for name in columns] for row in chain([first], rows)))
