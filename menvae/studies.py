"""Optuna studies: trials as their jobs see them, storage, pruner, and the objective values of a finished run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from menvae.errors import UserError, nearest
from menvae.files import read_json
from menvae.gates import gate_values
from menvae.tracking.local import LocalLog

if TYPE_CHECKING:
    import optuna


PrunerName = Literal["none", "median"]


@dataclass(frozen=True)
class Trial:
    """One trial of a study, as its job sees it.

    Attributes:
        storage: URL of a database, or path of a journal file.
        study: name of the study.
        number: number of the trial.
        metric: metric reported after every validation; empty for several objectives, for which Optuna cannot prune.
        pruner: pruner that decides whether the trial continues.
        startup_trials: number of finished trials before any trial may be pruned.
        warmup_epochs: number of epochs before a trial may be pruned.
    """

    storage: str
    study: str
    number: int
    metric: str
    pruner: PrunerName
    startup_trials: int
    warmup_epochs: int


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
    known = known | gate_values(read_json(run_dir / "gates.json", {"gates": list, "passed": bool}))
    for metric in metrics:
        if metric not in known:
            raise UserError(
                f"sweep.objectives: '{metric}' is not a metric of run {run_dir.name}; {nearest(metric, known)}"
            )
    values = [known[metric] for metric in metrics]
    return None if None in values else [float(value) for value in values if value is not None]
