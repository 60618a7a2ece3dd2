"""A comparison as CSV files in full precision: one row per run, and one row per configuration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from menvae.comparison.compare import summarise
from menvae.comparison.judged import GateValue
from menvae.comparison.results import Comparison, Configuration, Summary
from menvae.comparison.swept_keys import ABSENT
from menvae.comparison.tracked_runs import TrackedRun
from menvae.comparison.words import front_mark, largest_leaks, verdict_counts
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
    rows = [_run_row(comparison, one, run, keys, names) for one in comparison.rows for run in one.runs]
    figures = sorted({name for one in comparison.rows for run in one.runs for name in run.figures})
    return _write(path, rows, figures)


def write_configurations(comparison: Comparison, path: Path) -> Path:
    """Write one row per configuration, with mean, deviation and interval over its seeds; return ``path``.

    Columns of a gate: ``<gate>`` (mean over the seeds), ``<gate>/sd``, ``<gate>/low`` and ``<gate>/high`` (95 %
    t-interval of the mean), and the number of seeds by verdict, ``<gate>/pass``, ...; ``test/<gate>`` for the test
    split. The last columns are the numbers of ``evaluation.json`` over the seeds, ``final/<split>/<metric>``.
    """
    rows = [_configuration_row(comparison, one) for one in comparison.rows]
    figures = _figures([run for one in comparison.rows for run in one.runs])
    return _write(path, rows, [f"{name}{ending}" for name in figures for ending in ("", "/sd", *_ENDS)])


def _run_row(
    comparison: Comparison, one: Configuration, run: TrackedRun, keys: Sequence[str], names: Sequence[str]
) -> Row:
    row: Row = {"configuration": one.number, "data": one.cohort}
    row |= {key: run.params.get(key, ABSENT) for key in keys} | {"seed": run.seed}
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
    if any(other.leaks for configuration in comparison.rows for other in configuration.runs):
        row |= {"largest_leaks": largest_leaks(run, "val"), "test/largest_leaks": largest_leaks(run, "test")}
    if any(other.stands_for for configuration in comparison.rows for other in configuration.runs):
        row["stands_for"] = " ".join(run.stands_for)
    return row | dict(run.figures)


def _about(name: str, gate: GateValue | None) -> Row:
    low, high = (None, None) if gate is None or gate.interval is None else gate.interval
    return {f"{name}/low": low, f"{name}/high": high, f"{name}/verdict": None if gate is None else gate.verdict}


def _configuration_row(comparison: Comparison, one: Configuration) -> Row:
    cohort = next(cohort for cohort in comparison.cohorts if cohort.label == one.cohort)
    row: Row = {"configuration": one.number, "data": one.cohort, **one.values, "seeds": len(one.runs)}
    row |= {"gates_passed": one.gates_passed, "test_gates_passed": one.test_gates_passed}
    row |= {"runs_passed": one.num_runs_passed, "front": front_mark(cohort, one), "mean_rank": one.mean_rank}
    for split in comparison.splits:
        summaries = one.summaries(split)
        for gate in comparison.gates:
            name = gate.name if split == "val" else f"{split}/{gate.name}"
            row |= dict(_over_seeds(name, summaries.get(gate.name)))
            counts = verdict_counts(one, gate.name, split)
            row |= {f"{name}/{verdict}": count for verdict, count in counts.items()}
    for name in _figures(one.runs):
        row |= dict(_over_seeds(name, summarise({run.seed: run.figures.get(name) for run in one.runs})))
    return row


def _figures(runs: Sequence[TrackedRun]) -> list[str]:
    """Return the figures of runs, without the ends of their intervals over patients."""
    return sorted({name for run in runs for name in run.figures if not name.endswith(_ENDS)})


def _over_seeds(name: str, summary: Summary | None) -> Iterator[tuple[str, float | None]]:
    interval = None if summary is None else summary.interval
    yield name, None if summary is None else summary.mean
    yield f"{name}/sd", None if summary is None else summary.deviation
    yield f"{name}/low", None if interval is None else interval[0]
    yield f"{name}/high", None if interval is None else interval[1]


def _write(path: Path, rows: Sequence[Row], figures: Sequence[str]) -> Path:
    """Write rows; those of runs without some of the figures are blank there."""
    first = [name for name in rows[0] if name not in set(figures)]
    columns = [*first, *figures]
    return write_table(path, columns, [[row.get(name) for name in columns] for row in rows])
