"""Runs as trials of an Optuna study: how a job reports to it, and what the study learns of a run."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from menvae import collectives
from menvae.runs.job import PrunerName, Trial
from menvae.tracking.local import LocalLog
from menvae.types import Observation, Observer

if TYPE_CHECKING:
    import optuna


_log = logging.getLogger(__name__)

_GATE = "gate/"


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


class TrialReporter(Observer):
    """Tells the study how a trial is doing after every validation, and ends it when the pruner says so."""

    def __init__(self, trial: Trial) -> None:
        """Args: trial: whose job this is."""
        self._trial = trial
        self._study_trial: optuna.trial.Trial | None = None

    def on_validation_end(self, epoch: int, metrics: Mapping[str, float | None]) -> Observation:
        """Report on the main rank; all ranks stop together."""
        reason = self._report(epoch, metrics.get(self._trial.metric)) if collectives.rank() == 0 else ""
        reason = collectives.from_rank_zero(reason)
        return Observation(stop=reason, pruned=bool(reason))

    def _report(self, epoch: int, value: float | None) -> str:
        if value is None:
            return ""
        try:
            if self._study_trial is None:
                self._study_trial = self._open()
            self._study_trial.report(value, epoch)
            is_behind = self._study_trial.should_prune()
        except Exception as error:  # noqa: BLE001 - a storage that is away must not end the training
            _log.warning("trial %d cannot be reported to its study: %s", self._trial.number, error)
            return ""
        if not is_behind:
            return ""
        return f"pruned in epoch {epoch}: {self._trial.metric} is {value:.4g}, behind other trials at that epoch"

    def _open(self) -> optuna.trial.Trial:
        import optuna

        storage = open_storage(self._trial.storage)
        pruner = make_pruner(self._trial.pruner, self._trial.startup_trials, self._trial.warmup_epochs)
        study = optuna.load_study(study_name=self._trial.study, storage=storage, pruner=pruner)
        study_id = storage.get_study_id_from_name(self._trial.study)
        return optuna.trial.Trial(study, storage.get_trial_id_from_study_id_trial_number(study_id, self._trial.number))


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
