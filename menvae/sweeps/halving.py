"""Successive halving and Hyperband: trials pause at rungs, and Optuna's pruner says which of them go on.

Optuna's pruners judge a trial as soon as it reports, against those that have reported before: of trials that train side
by side, the first ones always pass. Here all trials of a batch pause at a rung, the launching process reports for them,
and each is judged as if it had come last. What goes on thus depends neither on timing nor on the launcher.

For its study, a paused trial is running. One that goes on keeps its number, and its run resumes from its checkpoint.
One that does not is pruned, and its run stays paused: ``menvae-train`` can finish it.

References:
    Jamieson, Talwalkar (2016). Non-stochastic best arm identification and hyperparameter optimization.
    Li et al. (2018). Hyperband: a novel bandit-based approach to hyperparameter optimization.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from menvae.errors import UserError
from menvae.studies import values_of
from menvae.sweeps.runners import Fate
from menvae.sweeps.status import PointStatus
from menvae.sweeps.trials import PASSED, raise_unless_known, reporting, trials_of
from menvae.tracking.local import LocalLog
from menvae.training.settings import TrainerSettings

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

PRUNERS = ("halving", "hyperband")
"""Values of ``hydra.sweeper.pruner`` with which trials pause."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Halving:
    """The rules of a search whose trials pause.

    Attributes:
        pruner: ``halving``, or ``hyperband``, which divides the trials among brackets that begin at different rungs.
        min_epochs: number of epochs of the first rung.
        reduction_factor: ratio of the epochs of two rungs; of those that reach a rung, one in so many goes on.
        metric: the objective, a key of ``metrics.jsonl``.
        trainer: settings that the trials share.
    """

    pruner: Literal["halving", "hyperband"]
    min_epochs: int
    reduction_factor: int
    metric: str
    trainer: TrainerSettings

    def __post_init__(self) -> None:
        """Check the rungs; raises `UserError`."""
        max_epochs, every = self.trainer.max_epochs, self.trainer.validate_every_epochs
        if self.reduction_factor < 2:
            raise UserError(
                f"hydra.sweeper.reduction_factor: {self.reduction_factor} is not allowed; it should be 2 or larger"
            )
        if not 1 <= self.min_epochs < max_epochs:
            raise UserError(
                f"hydra.sweeper.min_epochs: {self.min_epochs} is not allowed with trainer.max_epochs={max_epochs}; it "
                "should be 1 or larger, and smaller than that"
            )
        if self.min_epochs % every:
            raise UserError(
                f"hydra.sweeper.min_epochs: {self.min_epochs} is not allowed with trainer.validate_every_epochs="
                f"{every}; it should be a multiple of that"
            )
        if self.trainer.resume == "never":
            raise UserError(
                f"trainer.resume: never is not allowed with hydra.sweeper.pruner={self.pruner}, whose trials go on "
                "from their checkpoints"
            )

    def __str__(self) -> str:
        """Describe when trials pause.

        >>> trainer = TrainerSettings(max_epochs=9)
        >>> str(Halving(pruner="halving", min_epochs=1, reduction_factor=3, metric="val_epoch/loss", trainer=trainer))
        'halving, after 1, 3 of 9 epochs one in 3 goes on'
        """
        rungs = ", ".join(map(str, self.rungs))
        return (
            f"{self.pruner}, after {rungs} of {self.trainer.max_epochs} epochs one in {self.reduction_factor} goes on"
        )

    @property
    def rungs(self) -> list[int]:
        """Numbers of epochs after which trials pause.

        >>> trainer = TrainerSettings(max_epochs=30)
        >>> Halving(pruner="halving", min_epochs=2, reduction_factor=3, metric="val_epoch/loss", trainer=trainer).rungs
        [2, 6, 18]
        """
        epochs = (self.min_epochs * self.reduction_factor**power for power in itertools.count())
        return list(itertools.takewhile(lambda number: number < self.trainer.max_epochs, epochs))

    def next_rung(self, trial: FrozenTrial) -> int | None:
        """Return the number of epochs after which a trial pauses next, or None if it trains to the end."""
        passed = trial.user_attrs.get(PASSED, 0)
        return next((rung for rung in self.rungs if rung > passed), None)

    def report(self, study: optuna.Study, number: int, status: PointStatus | None) -> None:
        """Report the values of a running trial at the rungs that its run has reached, as far as it has values.

        Args:
            study: the study.
            number: number of the trial.
            status: status of its point; None if it cannot run.

        Raises:
            UserError: the run lacks the objective, and no trial has shown that other runs have it.
        """
        if status is None or status.run_dir is None or status.fate not in (Fate.PAUSED, Fate.FINISHED):
            return
        known = study.get_trials(deepcopy=False)[number].intermediate_values
        rows = {row["epoch"]: row for row in LocalLog(status.run_dir).metrics()}
        missing = [rung for rung in self.rungs if rung in rows and rung not in known]
        if not missing:
            return
        trial = reporting(study, number)
        for rung in missing:
            try:
                (value,) = values_of(rows[rung], [self.metric], status.run_dir.name)
            except UserError as error:
                raise_unless_known(study, error)
                return
            if value is not None:
                trial.report(value, rung)

    def settle(self, study: optuna.Study, paused: Mapping[int, PointStatus], *, others_ended: bool) -> None:
        """Let trials that wait at a rung go on, or prune them; those that have not come to their rung stay as they are.

        Args:
            study: the study, to which `report` has reported.
            paused: {number: status of its point} of trials whose runs are paused.
            others_ended: whether other trials of the same launch have ended. If not, and no trial has come to its rung,
                all of them fail: the next launch would not come further.
        """
        import optuna

        state = optuna.trial.TrialState
        trials = study.get_trials(deepcopy=False)
        rungs = {number: self.next_rung(trials[number]) for number in paused}
        arrived = {number: rung for number, rung in rungs.items() if rung is not None and paused[number].epochs >= rung}
        if not arrived and not others_ended:
            for number in paused:
                study.tell(number, state=state.FAIL)
            return
        known = {number: rung for number, rung in arrived.items() if rung in trials[number].intermediate_values}
        passing = self.passing(study, known)
        for number, rung in arrived.items():
            if number in passing:
                reporting(study, number).set_user_attr(PASSED, rung)
            else:
                study.tell(number, state=state.PRUNED)
        go_on = Counter(arrived[number] for number in passing)
        for rung, total in sorted(Counter(arrived.values()).items()):
            _log.info("after epoch %d, %d of %d trials go on", rung, go_on[rung], total)

    def passing(self, study: optuna.Study, arrived: Mapping[int, int]) -> set[int]:
        """Return the trials that the pruner lets go on, each judged as if it had come to its rung last.

        The pruner sees copies of the study in memory, in which the trials have the same numbers and thus brackets.

        Args:
            study: the study; it is only read.
            arrived: {number of a trial: the rung at which it waits}, with its value there in the study.
        """
        if not arrived:
            return set()
        copy = self._empty_copy(study)
        copied = [copy.ask() for _ in study.get_trials(deepcopy=False)]
        for trial in trials_of(study):
            last = arrived.get(trial.number, self.rungs[-1])
            for rung in (rung for rung in self.rungs if rung <= last and rung in trial.intermediate_values):
                copied[trial.number].report(trial.intermediate_values[rung], rung)
                if arrived.get(trial.number) != rung:
                    copied[trial.number].should_prune()  # not for the answer: it enters the value into the rung
        waiting = copy.get_trials()
        for number in arrived:
            copied[number].should_prune()
        entered = copy.get_trials()
        return {
            number
            for number in arrived
            if not self._is_pruned(study, [*entered[:number], waiting[number], *entered[number + 1 :]], number)
        }

    def _is_pruned(self, study: optuna.Study, trials: Sequence[FrozenTrial], number: int) -> bool:
        """Return whether the pruner ends a trial that has not entered its rung, while all others have."""
        copy = self._empty_copy(study)
        copy.add_trials(trials)
        return copy.pruner.prune(copy, copy.get_trials(deepcopy=False)[number])

    def _empty_copy(self, study: optuna.Study) -> optuna.Study:
        """Return a study in memory with the name and direction of another, and the pruner."""
        import optuna

        return optuna.create_study(
            study_name=study.study_name,
            direction=study.direction,
            sampler=optuna.samplers.RandomSampler(),
            pruner=self._make_pruner(),
        )

    def _make_pruner(self) -> optuna.pruners.BasePruner:
        import optuna

        if self.pruner == "halving":
            return optuna.pruners.SuccessiveHalvingPruner(self.min_epochs, self.reduction_factor)
        return optuna.pruners.HyperbandPruner(self.min_epochs, self.trainer.max_epochs, self.reduction_factor)
