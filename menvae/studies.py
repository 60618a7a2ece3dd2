"""Studies of Optuna: a trial as its job finds it, the storage, the pruner, and the values of a finished run."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from menvae.tracking.local import LocalLog

if TYPE_CHECKING:
    import optuna


PrunerName = Literal["none", "median"]

_log = logging.getLogger(__name__)

_GATE = "gate/"


@dataclass(frozen=True)
class Trial:
    """One trial of a study, as its job finds it.

    Attributes:
        storage: URL of a database, or path of a journal file.
        study: name of the study.
        number: of the trial.
        metric: reported after every validation; empty where there are several objectives, which Optuna cannot follow.
        pruner: who decides whether it goes on.
        startup_trials: finished trials before any is pruned.
        warmup_epochs: epochs before a trial may be pruned.
    """

    storage: str
    study: str
    number: int
    metric: str
    pruner: PrunerName
    startup_trials: int
    warmup_epochs: int


def open_storage(storage: str) -> optuna.storages.BaseStorage:
    """Return the storage of a study: a database for an URL, else a journal file, which many processes may share."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if "://" in storage:
        return optuna.storages.RDBStorage(storage)
    return optuna.storages.JournalStorage(JournalFileBackend(storage))


def make_pruner(name: PrunerName, startup_trials: int, warmup_epochs: int) -> optuna.pruners.BasePruner:
    """Return Optuna's pruner of that name."""
    import optuna

    if name == "none":
        return optuna.pruners.NopPruner()
    return optuna.pruners.MedianPruner(n_startup_trials=startup_trials, n_warmup_steps=warmup_epochs + 1)


def objective_values(run_dir: Path, metrics: Sequence[str]) -> list[float] | None:
    """Return the values of a finished run: gates as they were judged, other metrics at the best epoch.

    Args:
        run_dir: its run directory.
        metrics: keys of ``metrics.jsonl``, or ``gate/<name>``.

    Returns:
        One value for each metric, or None if one of them could not be computed.
    """
    best_epoch = json.loads((run_dir / "status.json").read_text())["best_epoch"]
    known: dict[str, Any] = next(row for row in LocalLog(run_dir).metrics() if row["epoch"] == best_epoch)
    table = json.loads((run_dir / "gates.json").read_text())
    known = known | {f"{_GATE}{gate['name']}": gate["value"] for gate in table["gates"]}
    values = [known.get(metric) for metric in metrics]
    unknown = [metric for metric in metrics if metric not in known]
    if unknown:
        _log.error("run %s has no metric %s", run_dir.name, ", ".join(unknown))
    return None if None in values else [float(value) for value in values if value is not None]
