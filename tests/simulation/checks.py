"""What must hold at the end of a simulated month: files and store against what the cluster saw."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path

from cluster import (
    EXCEPTION,
    NODE_FAILED,
    OUT_OF_MEMORY,
    PREEMPTED,
    TIMED_OUT,
    Attempt,
    Ledger,
    Settings,
)

from menvae.gates import gate_values
from menvae.runs.directory import RunDirectory
from menvae.sweeps.runners import Fate
from menvae.sweeps.status import PointStatus
from menvae.sweeps.sweep import Sweep
from menvae.tracking.local import LocalLog

Check = tuple[str, object, object]
"""In words what is checked, what should be, and what is."""

Row = tuple[str, int, float]
"""Key, step and value of a metric."""


def checks(settings: Settings, sweep: Sweep, statuses: Sequence[PointStatus], ledger: Ledger) -> Iterator[Check]:
    """Yield all checks.

    Args:
        settings: what was simulated.
        sweep: the sweep.
        statuses: what menvae says of its points.
        ledger: what the cluster saw.
    """
    yield from of_ends(settings, statuses, ledger)
    yield from of_work(settings, sweep, ledger)
    yield from of_store(settings, sweep, statuses)


def of_ends(settings: Settings, statuses: Sequence[PointStatus], ledger: Ledger) -> Iterator[Check]:
    """Every point has ended as it should: finished, or with the cause that was drawn for it."""
    hopeless = {run: f"ValueError: made up for {run}" for run, one in ledger.fortunes.items() if one.is_hopeless}
    yield "points", settings.num_points, len(statuses)
    yield (
        "points that fail whenever they run",
        max(1, round(0.1 * settings.num_points * settings.failures)),
        len(hopeless),
    )
    finished = {status.point.run for status in statuses if status.fate == Fate.FINISHED}
    yield "finished points", settings.num_points - len(hopeless), len(finished)
    failed = {status.point.run: status.reason for status in statuses if status.fate == Fate.FAILED}
    yield "failed points with their causes", hopeless, failed
    first: dict[str, str] = {}
    for attempt in ledger.attempts:
        first.setdefault(attempt.run, attempt.end)
    ends = Counter(first.values())
    drawn = Counter(one.mishap for one in ledger.fortunes.values())
    for mishap in (EXCEPTION, OUT_OF_MEMORY, TIMED_OUT, NODE_FAILED, PREEMPTED):
        yield f"first jobs that end by: {mishap}", drawn[mishap], ends[mishap]
    retried = {run for run, end in first.items() if end != "finished"} - hopeless.keys()
    yield "points that finish after another end", len(retried), len(retried & finished)
    yield "jobs in the queue, at most", True, ledger.most_queued <= settings.most_jobs
    yield "jobs at once, at most", True, ledger.most_running <= settings.num_nodes


def of_work(settings: Settings, sweep: Sweep, ledger: Ledger) -> Iterator[Check]:
    """No run is trained twice at once, and nothing is computed twice but what no checkpoint had kept."""
    attempts: dict[str, list[Attempt]] = {}
    for attempt in ledger.attempts:
        attempts.setdefault(attempt.run, []).append(attempt)
    pairs = [pair for each in attempts.values() for pair in pairwise(each)]
    yield "runs trained by two jobs at once", 0, sum(later.began < before.ended for before, later in pairs)
    yield "runs trained after their end", 0, sum(before.end == "finished" for before, _ in pairs)
    wrong = sum(later.done != before.kept for before, later in pairs)
    yield "runs that go on elsewhere than at their checkpoint", 0, wrong
    lost = Counter(
        (one.run, epoch)
        for one in ledger.attempts
        for epoch in range(1, settings.num_epochs + 1)
        if one.end == NODE_FAILED and one.kept < epoch <= one.reached
    )
    twice = {key: num - 1 for key, num in ledger.logged.items() if num > 1}
    yield "epochs computed again, of which no checkpoint was left", dict(lost), twice
    complete = list(range(1, settings.num_epochs + 1))
    logged = {run: [row["epoch"] for row in LocalLog(sweep.runs / run).metrics()] for run in attempts}
    is_whole = Counter(epochs == complete for epochs in logged.values())
    hopeless = sum(one.is_hopeless for one in ledger.fortunes.values())
    yield "logs with each epoch once", settings.num_points - hopeless, is_whole[True]
    yield "run directories", len(ledger.fortunes), sum(path.is_dir() for path in sweep.runs.iterdir())


def of_store(settings: Settings, sweep: Sweep, statuses: Sequence[PointStatus]) -> Iterator[Check]:
    """The store has one run for each point and one for the sweep, and each value once."""
    runs, rows = read_store(settings.output_dir / "mlflow.db")
    names = Counter(name for name, _ in runs)
    points = {status.point.run for status in statuses}
    yield "runs in the store, twice", 0, sum(num - 1 for num in names.values())
    yield "runs in the store, missing", 0, len(points - names.keys())
    yield "runs of the sweep itself", 1, names[sweep.name]
    yield "runs in the store of nothing", 0, len(names.keys() - points - {sweep.name})
    ends = {status.point.run: "FINISHED" if status.fate == Fate.FINISHED else "FAILED" for status in statuses}
    yield "runs in the store with another end", 0, sum(ends.get(name, end) != end for name, end in runs)
    places = Counter((name, key, step) for name, values in rows.items() for key, step, _ in values)
    yield "values in the store, twice", 0, sum(num - 1 for num in places.values())
    missing = others = total = 0
    for status in statuses:
        expected, found = expected_rows(sweep.runs / status.point.run, status), set(rows.get(status.point.run, []))
        missing += len(expected - found)
        others += len(found - expected)
        total += len(expected)
    yield "values in the store, missing", 0, missing
    yield "values in the store, other than logged", 0, others
    yield "values in the store", total, sum(map(len, rows.values()))


def expected_rows(run_dir: Path, status: PointStatus) -> set[Row]:
    """Return what the store should have of a run, from the log and the gates of its directory."""
    log = LocalLog(run_dir)
    found = {
        (key, int(row["epoch"] or 0), value)
        for row in log.metrics() + log.timings()
        for key, value in row.items()
        if key != "epoch" and value is not None
    }
    if status.fate == Fate.FINISHED:
        directory = RunDirectory(run_dir)
        gates = gate_values(directory.gates())
        directory.release()
        found |= {(key, status.epochs, float(value)) for key, value in gates.items() if value is not None}
    return found


def read_store(database: Path) -> tuple[list[tuple[str, str]], dict[str, list[Row]]]:
    """Return name and end of each run of a store, and {name: its metrics}."""
    with closing(sqlite3.connect(database)) as store:
        runs = store.execute("select name, status from runs where lifecycle_stage = 'active'").fetchall()
        rows: dict[str, list[Row]] = {}
        for name, *row in store.execute("select name, key, step, value from metrics join runs using (run_uuid)"):
            rows.setdefault(name, []).append((row[0], row[1], row[2]))
    return runs, rows
