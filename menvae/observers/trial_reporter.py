"""Reports of a trial to its Optuna study."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from menvae import collectives
from menvae.observers import ObserverContext
from menvae.registry import register
from menvae.studies import Trial, make_pruner, open_storage
from menvae.types import Observation, Observer

if TYPE_CHECKING:
    import optuna

_log = logging.getLogger(__name__)


@register("observer", "trial_reporter")
def trial_reporter(context: ObserverContext) -> TrialReporter | None:
    """Reports the trial's metric to its study and ends the run if the pruner decides so."""
    trial = context.trial
    return TrialReporter(trial) if trial is not None and trial.metric else None


class TrialReporter(Observer):
    """Reports the trial's metric after every validation and ends the run if the pruner decides so."""

    order: ClassVar[int] = 90

    def __init__(self, trial: Trial) -> None:
        """Args: trial: trial of this run."""
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
        except Exception as error:  # noqa: BLE001 - an unavailable storage must not end training
            _log.warning("cannot report trial %d to its study: %s", self._trial.number, error)
            return ""
        if not is_behind:
            return ""
        return f"pruned in epoch {epoch}: {self._trial.metric} is {value:.4g}, worse than other trials at that epoch"

    def _open(self) -> optuna.trial.Trial:
        import optuna

        storage = open_storage(self._trial.storage)
        pruner = make_pruner(self._trial.pruner, self._trial.startup_trials, self._trial.warmup_epochs)
        study = optuna.load_study(study_name=self._trial.study, storage=storage, pruner=pruner)
        study_id = storage.get_study_id_from_name(self._trial.study)
        return optuna.trial.Trial(study, storage.get_trial_id_from_study_id_trial_number(study_id, self._trial.number))
