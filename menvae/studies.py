"""Optuna studies: trials as their jobs see them, storage, pruner, and the objective values of a finished run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from menvae.errors import UserError, nearest
from menvae.files import read_json
from menvae.gates import gate_values
from menvae.tracking.local import LocalLog

if TYPE_CHECKING:
    import optuna


PrunerName = Literal["none", "median"]
"""Pruners that jobs ask themselves."""

ALL_GATES: Final = "passed"
"""Name of the constraint that every gate of a run is passed, as ``gate/passed`` is that metric."""

_LEAST_VIOLATION = 1e-9
_GATES: Mapping[str, type] = {"gates": list, "passed": bool}


@dataclass(frozen=True)
class Trial:
    """One trial of a study, as its job sees it.

    Attributes:
        storage: URL of a database, or path of a journal file.
        study: name of the study.
        number: number of the trial.
        metric: metric reported after every validation; empty if its job reports nothing: for several objectives, for
            which Optuna cannot prune, and for a trial that pauses, for which its search reports.
        pruner: pruner that decides whether the trial continues.
        startup_trials: number of finished trials before any trial may be pruned.
        warmup_epochs: number of epochs before a trial may be pruned.
        pause_after: number of epochs after which the run pauses until its search lets it go on; None: no pause.
    """

    storage: str
    study: str
    number: int
    metric: str
    pruner: PrunerName
    startup_trials: int
    warmup_epochs: int
    pause_after: int | None = None


def open_storage(storage: str) -> optuna.storages.BaseStorage:
    """Return the storage of a study: a database for a URL, else a journal file, which processes may share."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if "://" in storage:
        return optuna.storages.RDBStorage(storage)
    return optuna.storages.JournalStorage(JournalFileBackend(storage))


def make_pruner(name: PrunerName, startup_trials: int, warmup_epochs: int) -> optuna.pruners.BasePruner:
    """Return Optuna's pruner for a name."""
    import optuna

    if name == "none":
        return optuna.pruners.NopPruner()
    return optuna.pruners.MedianPruner(n_startup_trials=startup_trials, n_warmup_steps=warmup_epochs + 1)


def objective_values(run_dir: Path, metrics: Sequence[str]) -> list[float] | None:
    """Return the objective values of a finished run: gates from ``gates.json``, other metrics at the best epoch.

    Args:
        run_dir: the run directory.
        metrics: keys of ``metrics.jsonl``, or ``gate/<name>``.

    Returns:
        One value for each metric, or None if one of them is undefined for this run.

    Raises:
        UserError: the run has no such metric.
    """
    best_epoch = read_json(run_dir / "status.json", {"best_epoch": int})["best_epoch"]
    known: dict[str, Any] = next((row for row in LocalLog(run_dir).metrics() if row["epoch"] == best_epoch), {})
    known = known | gate_values(read_json(run_dir / "gates.json", _GATES))
    values = values_of(known, metrics, run_dir.name)
    return None if None in values else [float(value) for value in values if value is not None]


def values_of(known: Mapping[str, float | None], metrics: Sequence[str], run: str) -> list[float | None]:
    """Return the values of objectives.

    Args:
        known: {metric: value}.
        metrics: the objectives.
        run: name of the run, for messages.

    Raises:
        UserError: the run has no such metric.
    """
    for metric in metrics:
        if metric not in known:
            near = nearest(metric, known, "metrics.jsonl of the run")
            raise UserError(f"sweep.objectives: '{metric}' is not a metric of run {run}; {near}")
    return [known[metric] for metric in metrics]


def words_of(constraints: Sequence[str]) -> str:
    """Return what constraints leave of a set of runs.

    >>> words_of(["max_dcor", "passed"]), words_of([])
    (' of what passes max_dcor, every gate', '')
    """
    gates = ("every gate" if name == ALL_GATES else name for name in constraints)
    return f" of what passes {', '.join(gates)}" if constraints else ""


def violations(run_dir: Path, constraints: Sequence[str]) -> dict[str, float]:
    """Return by how much a finished run misses gates, as constraints of Optuna: 0 or less if it passes.

    What counts is the end of the interval that decides about the gate, relative to the target.

    Args:
        run_dir: the run directory.
        constraints: names of gates, or ``passed`` for all.

    Raises:
        UserError: the run has no such gate.
    """
    table = read_json(run_dir / "gates.json", _GATES)
    gates = {gate["name"]: gate for gate in table["gates"]}
    missed: dict[str, float] = {}
    for name in constraints:
        if name == ALL_GATES:
            by_gate = sum(max(_violation(gate), 0.0) for gate in gates.values())
            missed[name] = 0.0 if table["passed"] else max(by_gate, _LEAST_VIOLATION)
        elif name in gates:
            missed[name] = _violation(gates[name])
        else:
            near = nearest(name, [*gates, ALL_GATES])
            raise UserError(f"sweep.constraints: '{name}' is not a gate of run {run_dir.name}; {near}")
    return missed


def _violation(gate: Mapping[str, Any]) -> float:
    """Return by how much a gate is missed; at least a little if it is not passed for another reason."""
    value, target, is_above = gate["value"], gate["target"], gate["comparison"] == ">"
    if value is None:
        return math.inf
    end = gate.get("low" if is_above else "high")
    end = value if end is None else end
    missed: float = (target - end if is_above else end - target) / (abs(target) or 1.0)
    return min(missed, 0.0) if gate["passed"] else max(missed, _LEAST_VIOLATION)
