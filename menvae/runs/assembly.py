"""Assembly of a run on every rank: model, objective, trainer and observers; its training and its results."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from menvae.composition.experiment import Experiment
from menvae.data.source import Data
from menvae.errors import UserError
from menvae.evaluation.final import FinalEvaluation, evaluate_model, judge, results
from menvae.evaluation.gates import JudgedGates
from menvae.files import DamagedFileError, write_json
from menvae.interruption import StopRequest
from menvae.layers import set_memory_format
from menvae.metrics.interventions import NO_READER, SEVERAL_RANKS
from menvae.models import Model
from menvae.observers import ObserverContext, build_observers
from menvae.pictures import KNOWN_WHEN, VolumeFacts, draw_pictures, needs_of
from menvae.references.find import Compute
from menvae.runs.embeddings import write_embeddings
from menvae.runs.environment import code_hash
from menvae.runs.evaluation import describe_evaluation, write_evaluation
from menvae.runs.job import Job
from menvae.runs.micro_batches import fit_into_memory
from menvae.runs.reading import read_mapping
from menvae.runs.recorder import RunRecorder
from menvae.runs.references import ceiling_reader, reference_cohort, references_of
from menvae.runs.start import checkpoint_identity, foreign_checkpoint, initial_weights, meaning_for_other_runs
from menvae.runs.tuning import Tuner
from menvae.tracking.local import LocalLog
from menvae.training.place import Place
from menvae.training.profiling import PROFILE, RunProfiler
from menvae.training.trainer import Ingredients, Trainer

_log = logging.getLogger(__name__)


def seconds_per_step(experiment: Experiment, data: Data, num_steps: int = 3) -> float:
    """Return the duration of a training step on this machine, from a few steps whose result is discarded."""
    here = Place(torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu"), 0, 1)
    with tempfile.TemporaryDirectory(prefix="menvae-") as folder:
        return AssembledRun(experiment, data, here, Path(folder), StopRequest()).trainer.seconds_per_step(num_steps)


class AssembledRun:
    """One run as assembled on each rank."""

    def __init__(
        self, experiment: Experiment, data: Data, here: Place, path: Path, stop: StopRequest, job: Job | None = None
    ) -> None:
        self.experiment, self.data, self.here, self.path = experiment, data, here, path
        settings, parts = experiment.settings, experiment.parts
        self.metrics = experiment.build_metrics()
        self.model, objective = experiment.build(data.num_training_subjects, len(data.classes))
        self.model.to(here.device)
        trainer = Tuner(experiment, data, self.model, objective.to(here.device), here).chosen(path)
        set_memory_format(self.model, torch.channels_last_3d if trainer.channels_last else torch.contiguous_format)
        ingredients = Ingredients(
            model=self.model,
            objective=objective,
            optimizer=parts["optimizer"](self.model.parameters()),
            update=parts["update"](),
            learning_rate=parts["learning_rate"](),
            curriculum=settings["curriculum"],
            train=data.train,
            val=data.val,
        )
        volumes = data.volumes
        context = ObserverContext(
            model=self.model,
            metrics=self.metrics,
            channels=experiment.source.channels,
            max_epochs=trainer.max_epochs,
            settings=settings,
            folder=path,
            is_main=here.is_main,
            volumes=None if volumes is None else VolumeFacts(volumes.modalities, volumes.cohort.spacing_mm),
            trial=job.trial if job is not None else None,
        )
        self.trainer = Trainer(
            ingredients,
            trainer,
            here,
            seed=experiment.config["seed"],
            checkpoints=path / "checkpoints",
            identity=checkpoint_identity(experiment, data, here),
            observers=build_observers(experiment.observers, context),
            stop=stop,
        )
        pause_after = job.trial.pause_after if job is not None and job.trial is not None else None
        self.last_epoch = min(pause_after or trainer.max_epochs, trainer.max_epochs)  # of this process
        self._resume()
        if trainer.auto_batch:
            fit_into_memory(experiment, self.trainer)
        if trainer.profile:
            self.trainer.profiler = RunProfiler(self.trainer, path)

    def _resume(self) -> None:
        last = self.path / "checkpoints" / "last.ckpt"
        source = last if last.is_file() else foreign_checkpoint(self.experiment)
        if source is not None:
            try:
                self.trainer.restore(source)
            except DamagedFileError as error:
                if source != last:
                    raise
                remedy = "delete this file, and the same command trains the run from the start"
                raise UserError(f"{error}; {remedy}") from error
            state = self.trainer.state
            _log.info("resuming after epoch %d and %d steps from %s", state.epoch, state.step, source)
            return
        initial = initial_weights(self.experiment)
        if initial is not None:
            self.trainer.begin_with(initial, meaning_for_other_runs(self.experiment))
            _log.info("starting from the weights of %s", initial)

    def train_and_evaluate(self, recorder: RunRecorder | None) -> dict[str, Any]:
        """Train to the end, evaluate the best weights, and (on the main rank) write gates, pictures and report.

        Returns:
            The content of ``status.json``; that of a run which pauses before its end has no results.
        """
        state = self.trainer.fit(recorder, self.last_epoch)
        if not self.trainer.has_ended:
            reason = f"after epoch {state.epoch} of {self.trainer.settings.max_epochs}"
            return {"state": "paused", "reason": reason, "epochs": state.epoch}
        self.trainer.load_best()
        _log.info("evaluating the weights of epoch %d", state.best_epoch or state.epoch)
        loaders = {"val": self.data.val, "test": self.data.test}
        judged = {name: partial(self.trainer.outputs, loader) for name, loader in loaders.items() if loader is not None}
        alone = self.here.num_ranks == 1  # of several ranks, some might find the reader and others not
        cohort = reference_cohort(self.experiment, self.data, self.here.device)
        reader = ceiling_reader(cohort, self.experiment) if alone else None
        evaluation = evaluate_model(
            self.model,
            self.trainer.inputs(self.data.train),
            judged,
            self.metrics,
            reader,
            self.experiment.source,
            self.trainer.settings,
            NO_READER if alone else SEVERAL_RANKS,
        )
        targets = self.experiment.settings["gates"].targets
        gates = judge(evaluation, targets, self.metrics, self.experiment.supervision)
        status = {
            "state": "pruned" if state.pruned else "collapsed" if state.stopped else "finished",
            "reason": state.stopped,
            "epochs": state.epoch,
            "best_epoch": state.best_epoch or state.epoch,
            "gates_passed": gates.passed,
            "code": code_hash(),
        }
        if recorder is not None:
            self._write_results(recorder.local, evaluation, gates, status)
        return status

    def _write_results(
        self,
        local: LocalLog,
        evaluation: FinalEvaluation,
        gates: JudgedGates,
        status: Mapping[str, Any],
    ) -> None:
        from menvae.runs.report import is_collapsed, write_report

        write_json(self.path / "gates.json", gates.as_dict())
        compute: Compute = "cheap" if self.here.num_ranks == 1 else "none"  # the other ranks load nothing now
        cohort = reference_cohort(self.experiment, self.data, self.here.device)
        references = references_of(cohort, self.experiment, evaluation, compute)
        source, supervision = self.experiment.source, self.experiment.supervision
        described = describe_evaluation(
            evaluation, gates, self.data, supervision, self.path.name, "best", status["best_epoch"], references
        )
        write_evaluation(self.path, described, evaluation, self.data, source, supervision)
        clock = ("time/train_s", "time/validate_s")  # of all processes that trained the run, not only this one
        seconds = sum(row[key] or 0.0 for row in local.timings() for key in clock)
        summary = {
            **status,
            "collapsed": is_collapsed(status["state"], gates.as_dict()["gates"]),
            "parameters": _count_parameters(self.model),
            "seconds": round(seconds, 1),
        }
        units = {name: target.unit for name, target in self.experiment.source.targets.items()}
        needs = needs_of(self.experiment.pictures, "after_training")
        context = replace(
            results(self.model, evaluation, self.data, units, needs, self.trainer.settings),
            metrics=local.metrics(),
            gates=gates.targets_by_metric,
            profile=_profile_of(self.path),
        )
        lacks = {need for need in KNOWN_WHEN["after_training"] if not context.has(frozenset({need}))}
        lacks |= {"correlation"} if self.data.targets is None else set()
        write_json(self.path / "summary.json", {**summary, "lacks": sorted(lacks)})
        _log.info("drawing the pictures")
        draw_pictures(self.experiment.pictures, context, "after_training", self.path / "pictures")
        for observer in self.trainer.observers:
            outputs = chain(self.trainer.outputs(self.data.val), self.trainer.outputs(self.data.train))
            observer.on_training_end(status["best_epoch"], outputs)
        if self.data.embedded is not None:
            write_embeddings(self.path / "embeddings.npz", self.model, self.data, self.here.device)
        _log.info("writing the report")
        write_report(self.path)


def _profile_of(path: Path) -> Mapping[str, Any] | None:
    """Return what ``trainer.profile`` has measured, in this process or in one that was stopped; None without it."""
    return read_mapping(path / PROFILE) if (path / PROFILE).is_file() else None


def _count_parameters(model: Model) -> dict[str, int]:
    counts = {
        name: sum(parameter.numel() for parameter in child.parameters()) for name, child in model.named_children()
    }
    return {**counts, "total": sum(counts.values())}
