"""The life of one run: where it lives, training with everything written down, its results, its end."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from menvae import collectives
from menvae.configuration import check_writable
from menvae.console import logs
from menvae.console.progress import TrainingProgress
from menvae.data.source import Data, Volumes
from menvae.data.targets.correlation import entangled_words, target_correlation
from menvae.errors import ExitCode, OtherRankFailedError, RunInterruptedError, UserError
from menvae.evaluation.collapse import CollapseWatch
from menvae.evaluation.embeddings import add_others, write_embeddings
from menvae.evaluation.final import FinalEvaluation, draw_latent_space, draw_targets, draw_traversals, evaluate_model
from menvae.evaluation.gates import GateTable, evaluate_gates
from menvae.evaluation.metrics import SplitRecorder
from menvae.evaluation.reconstructions import ReconstructionPictures
from menvae.experiment import Experiment
from menvae.files import write_json, write_table, write_text
from menvae.interruption import StopRequest, stop_requests
from menvae.layers import set_memory_format
from menvae.models import Model
from menvae.naming import foreign_checkpoint, identify, initial_weights
from menvae.runs.directory import RunDirectory
from menvae.runs.environment import code_hash, describe_environment, describe_process
from menvae.runs.failures import FailureLog
from menvae.runs.job import Job, command
from menvae.runs.trial import TrialReporter
from menvae.schedules import Schedule
from menvae.tracking.local import LocalLog
from menvae.tracking.mlflow.tracker import MLflowTracker
from menvae.tracking.tracker import DatasetInput, ParentRun
from menvae.training import checkpoint
from menvae.training.determinism import make_deterministic
from menvae.training.place import Place, num_ranks_started, place
from menvae.training.ranks import run_ranks
from menvae.training.settings import TrainerSettings
from menvae.training.trainer import Ingredients, Trainer

_log = logging.getLogger(__name__)

_ARTIFACTS = {
    "train.log",
    "config.yaml",
    "environment.json",
    "metrics.jsonl",
    "metrics.csv",
    "gates.json",
    "targets.json",
    "splits.csv",
    "summary.json",
    "pictures",
    "report.html",
    "embeddings.npz",
    "error.txt",
}
"""What MLflow gets of a run directory, beside the best weights."""


_MEANING_OF_WEIGHTS = ("data.modalities", "data.columns", "model.partitions", "model.supervision")
"""What a run must have in common with one whose weights it begins with, if it has it, beside names and shapes."""

_PATIENCE_OF_JOBS_S = 60.0  # for the lock of a run: the process before may be writing its last checkpoint
_PATIENCE_WHEN_STOPPED_S = 10.0  # for MLflow: schedulers kill 30 s after their signal


class RunRecorder:
    """Writes a run down on the main rank: local log first, then MLflow, then the progress bar."""

    def __init__(self, local: LocalLog, tracker: MLflowTracker, progress: TrainingProgress) -> None:
        """Args: local: log on disk. tracker: MLflow. progress: bar or lines."""
        self.local, self.tracker, self.progress = local, tracker, progress

    def step(self, epoch: int, step: int, losses: Callable[[], Mapping[str, float]]) -> None:
        """Show a step."""
        self.progress.step(epoch, step, losses)

    def epoch_end(self, epoch: int, metrics: Mapping[str, float | None], timings: Mapping[str, float]) -> None:
        """Write, send and show an epoch."""
        self.local.append(epoch, metrics, timings)
        self.tracker.log(epoch, metrics, timings)
        self.progress.epoch_end(epoch, metrics, sum(value for key, value in timings.items() if key.startswith("time/")))


def train(composed: DictConfig, job: Job | None = None) -> int:
    """Train, evaluate and report one run; go on with it if it was begun, only report it if it is finished.

    With ``trainer.devices`` larger than 1 this process starts the ranks and waits for them, unless it is one.

    Args:
        composed: configuration of ``conf/train.yaml``.
        job: the same with its place in a sweep, if it is a job of one.

    Returns:
        An exit code: ``DONE``, ``GATES_NOT_MET`` with ``gates.strict``, ``COLLAPSED`` where the watch ended the run, or
        what `run_ranks` returns.

    Raises:
        UserError: configuration or data are wrong.
        TrainingDivergedError: a loss or gradient is not finite.
        RunInterruptedError: a signal or the time limit ended it; a checkpoint of every step done is written.
    """
    experiment = Experiment.from_config(composed)
    settings: TrainerSettings = experiment.settings["trainer"]
    if settings.devices is not None and settings.devices > 1 and num_ranks_started() is None:
        with tempfile.TemporaryDirectory(prefix="menvae-") as folder:
            file = Path(folder) / "job.json"
            (job or Job(experiment.config)).write(file)
            return run_ranks(command(file), settings.devices)
    with stop_requests(settings.time_limit_min) as stop, place(settings.devices) as here:
        make_deterministic(here.device)
        logs.configure(None, only_errors=not here.is_main)
        try:
            return _train_here(experiment, job, here, stop)
        finally:
            logs.release()


def _train_here(experiment: Experiment, job: Job | None, here: Place, stop: StopRequest) -> ExitCode:
    """Be one rank of a run; on the main rank ``status.json`` says how it went, whatever happens."""
    check_writable(experiment.output_dir)
    data = experiment.load_data(here)
    directory = _open_directory(experiment, identify(experiment, data, here.num_ranks), job) if here.is_main else None
    path = collectives.from_rank_zero(directory.path if directory else Path())
    status = collectives.from_rank_zero(directory.status() if directory else {})
    failures = FailureLog(path)
    try:
        if status["state"] == "pruned" and (job is None or job.trial is None):
            raise UserError(f"run '{path.name}' was {status['reason']}; trainer.resume=never trains it to its end")
        if status["state"] in ("finished", "collapsed", "pruned"):
            _log.info("run %s is %s already: nothing to train", path.name, status["state"])
            if directory is not None:
                _complete(experiment, data, here, directory, status, job)
        elif directory is not None:
            status = _main_rank_run(experiment, data, here, directory, stop, job)
        else:
            status = _Run(experiment, data, here, path, stop, job).train_and_evaluate(None)
        collectives.patient_barrier()  # rank 0 writes results: launchers end ranks that outlive the first
        return _conclude(experiment, directory, status)
    except Exception as error:
        if stop.reason and here.num_ranks > 1:  # another rank obeyed first, and this one lost its connection
            _set_status(directory, "interrupted", stop.reason)
            raise RunInterruptedError(stop.reason) from error
        if not isinstance(error, OtherRankFailedError):
            failures.append(error, here.rank, here.num_ranks)
        out_of_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
        _set_status(directory, "failed", "out of memory" if out_of_memory else failures.cause())
        raise
    except (RunInterruptedError, KeyboardInterrupt) as interruption:
        _set_status(directory, "interrupted", str(interruption) or "Ctrl-C twice")
        raise
    finally:
        if directory is not None:
            directory.release()


def _set_status(directory: RunDirectory | None, state: Literal["failed", "interrupted"], reason: str) -> None:
    """Write down how a run that had begun ended early."""
    if directory is not None and directory.status()["state"] == "running":
        directory.set_status(state, reason=reason, **describe_process())


def _identity(experiment: Experiment, data: Data, here: Place) -> dict[str, str]:
    """Return what a checkpoint must have in common with a run that goes on from it, under the names users know."""
    supervision = ", ".join(f"{name} [{', '.join(told)}]" for name, told in experiment.supervision.items())
    return {
        **experiment.source.identity,
        **({"model.supervision": supervision} if supervision else {}),
        "model.partitions": ", ".join(f"{name} {size}" for name, size in experiment.layout.sizes.items()),
        "targets": data.targets_hash,
        "number of ranks": str(here.num_ranks),
    }


def _open_directory(experiment: Experiment, identity: str, job: Job | None) -> RunDirectory:
    runs = experiment.output_dir / "runs"
    if job is not None and job.run is not None:
        if not job.run.startswith(identity):
            raise UserError(
                f"this job was to be run '{job.run}', and with today's data it is '{identity}': the data changed after "
                "the sweep was launched; launch it again"
            )
        return RunDirectory(runs / job.run, _PATIENCE_OF_JOBS_S)
    return RunDirectory.choose(runs, identity, new=experiment.settings["trainer"].resume == "never")


def _conclude(experiment: Experiment, directory: RunDirectory | None, status: Mapping[str, Any]) -> ExitCode:
    """Show the gates on the main rank and turn the run's end into an exit code."""
    if directory is not None:
        from menvae.evaluation.report import gates_table

        table = json.loads((directory.path / "gates.json").read_text())
        logs.show(gates_table(table["gates"], table["note"]))
        _log.info("report: %s", directory.path / "report.html")
    if status["state"] == "collapsed":
        _log.error("%s", status["reason"])
        return ExitCode.COLLAPSED
    strict = experiment.settings["gates"].strict
    return ExitCode.GATES_NOT_MET if strict and not status["gates_passed"] else ExitCode.DONE


def _main_rank_run(
    experiment: Experiment, data: Data, here: Place, directory: RunDirectory, stop: StopRequest, job: Job | None
) -> dict[str, Any]:
    """Train with everything written down; status and tracker learn of the end, however it comes."""
    logs.configure(directory.path)
    _log.info("run %s", directory.path)
    directory.set_status("running", **describe_process())
    tracker = _tracker(experiment, directory, job)
    try:
        _describe(experiment, data, here, directory)
        local = LocalLog(directory.path)
        run = _Run(experiment, data, here, directory.path, stop, job)
        local.rewind(run.trainer.state.epoch)
        facts = (_params(experiment, here), _tags(experiment, data, directory))
        tracker.start(*facts, local, _datasets(experiment, data))
        first_epoch = run.trainer.state.epoch + 1
        max_epochs = experiment.settings["trainer"].max_epochs
        with TrainingProgress(max_epochs, data.train.steps_per_epoch, first_epoch) as progress:
            status = run.train_and_evaluate(RunRecorder(local, tracker, progress))
    except (RunInterruptedError, KeyboardInterrupt) as interruption:
        reason = str(interruption) or "Ctrl-C twice"
        _log.info("stopped by %s", reason)
        _set_status(directory, "interrupted", reason)  # first: schedulers kill soon after their signal
        tracker.finish("KILLED", {"menvae.state": "interrupted"}, patience_s=_PATIENCE_WHEN_STOPPED_S)
        raise
    except BaseException:
        tracker.finish("FAILED", {"menvae.state": "failed"})
        raise
    status["tracked"] = _hand_over(tracker, directory, status)
    directory.set_status(**status)  # only now: a run that was killed before is taken up again and ends the same
    _prune(experiment, directory)
    return status


def _tracker(experiment: Experiment, directory: RunDirectory, job: Job | None) -> MLflowTracker:
    sweep = job.sweep if job else None
    parent = ParentRun(sweep, sweep.name) if sweep else None
    settings = experiment.settings["tracking"]
    return MLflowTracker(settings, experiment.output_dir, directory.path, directory.path.name, parent)


def _datasets(experiment: Experiment, data: Data) -> list[DatasetInput]:
    part = experiment.parts["data"]
    place_of_data = part.settings.get("root") or part.settings.get("path") or experiment.output_dir / "cache"
    source = str(place_of_data)
    return [DatasetInput(part.part.name, data.data_hash[:36], source, "training")]


def _hand_over(tracker: MLflowTracker, directory: RunDirectory, status: Mapping[str, Any]) -> bool:
    """Give MLflow the end of the run; return whether it has all of it."""
    table = json.loads((directory.path / "gates.json").read_text())
    values = {f"gate/{gate['name']}": gate["value"] for gate in table["gates"]}
    tracker.log(status["epochs"], {**values, "gate/passed": float(table["passed"])}, {})
    tracker.log_artifacts([path for path in sorted(directory.path.iterdir()) if path.name in _ARTIFACTS])
    tracker.log_artifacts([directory.checkpoints / "best.ckpt"])
    tags = {"menvae.state": status["state"], "menvae.gates_passed": str(status["gates_passed"])}
    return tracker.finish("FINISHED", tags)


def _prune(experiment: Experiment, directory: RunDirectory) -> None:
    if not experiment.settings["trainer"].keep_optimizer:
        checkpoint.without_optimizer(directory.checkpoints / "last.ckpt")


def _complete(
    experiment: Experiment, data: Data, here: Place, directory: RunDirectory, status: dict[str, Any], job: Job | None
) -> None:
    """Do what was left when a run ended: MLflow was away or switched off, or the process was killed at the very end."""
    if data.embedded is not None:
        add_others(directory.path / "embeddings.npz", data)
    if experiment.settings["tracking"].enabled and not status["tracked"]:
        tracker = _tracker(experiment, directory, job)
        facts = (_params(experiment, here), _tags(experiment, data, directory))
        tracker.start(*facts, LocalLog(directory.path), _datasets(experiment, data))
        status["tracked"] = _hand_over(tracker, directory, status)
        directory.set_status(**status)
    _prune(experiment, directory)


def _describe(experiment: Experiment, data: Data, here: Place, directory: RunDirectory) -> None:
    """Write what is known before training: configuration, environment, targets, splits, schedules, correlations."""
    from menvae.pictures.drawing.curves import draw_schedule
    from menvae.presentation.figures import save_figure

    write_text(directory.path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(dict(experiment.config))))
    write_json(directory.path / "environment.json", describe_environment(str(here.device), here.num_ranks))
    write_json(directory.path / "targets.json", {"data_hash": data.data_hash, **data.description})
    write_table(directory.path / "splits.csv", data.split_columns, data.split_rows)
    for sentence in experiment.left_out:
        _log.info("%s", sentence)
    for sentence in experiment.advice:
        _log.warning("%s", sentence)
    save_figure(draw_schedule(*_schedule_curves(experiment)), directory.pictures / "schedule.png")
    if data.volumes is not None:
        _draw_target_correlation(experiment, data.volumes, directory.pictures / "target_correlation.png")


def _draw_target_correlation(experiment: Experiment, volumes: Volumes, picture: Path) -> None:
    """Draw which targets correlate, and warn of those that no loss can separate."""
    from menvae.pictures.drawing.matrices import draw_target_correlation
    from menvae.presentation.figures import save_figure

    features = [subject.features for subject in volumes.training]
    found = target_correlation(features, volumes.normalizer, experiment.supervision)
    save_figure(draw_target_correlation(found.before, found.after, found.partitions), picture)
    if entangled := entangled_words(found):
        _log.warning("%s", entangled)


def _schedule_curves(experiment: Experiment) -> tuple[dict[str, tuple[Any, Any]], tuple[Any, Any]]:
    positions = experiment.positions(501)
    epochs = np.linspace(0.0, experiment.settings["trainer"].max_epochs, len(positions))
    weights = experiment.build_objective(num_training_subjects=1).weight_curves(positions)
    curves = {f"lambda_{name}": (epochs, curve) for name, curve in weights.items()}
    factor: Schedule = experiment.parts["learning_rate"]()
    peak = experiment.parts["optimizer"].settings["learning_rate"]
    return curves, (epochs, np.array([peak * factor(position) for position in positions]))


def seconds_per_step(experiment: Experiment, data: Data, num_steps: int = 3) -> float:
    """Return how long a training step takes on this machine, from a few that are thrown away."""
    here = Place(torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu"), 0, 1)
    with tempfile.TemporaryDirectory(prefix="menvae-") as folder:
        return _Run(experiment, data, here, Path(folder), StopRequest()).trainer.seconds_per_step(num_steps)


def _params(experiment: Experiment, here: Place) -> dict[str, Any]:
    return {**_flattened(experiment.config), "num_ranks": here.num_ranks}


def _flattened(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted keys -> values; lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flattened(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _tags(experiment: Experiment, data: Data, directory: RunDirectory) -> dict[str, str]:
    git = json.loads((directory.path / "environment.json").read_text())["git"]
    return {
        "menvae.run": directory.path.name,
        "menvae.data_hash": data.data_hash,
        "menvae.targets_hash": data.targets_hash,
        "menvae.code_hash": code_hash(),
        "menvae.git_commit": git["commit"] + (" (modified)" if git["modified"] else "") if git else "unknown",
    }


class _Run:
    """Everything of one run that every rank has."""

    def __init__(
        self, experiment: Experiment, data: Data, here: Place, path: Path, stop: StopRequest, job: Job | None = None
    ) -> None:
        self.experiment, self.data, self.here, self.path = experiment, data, here, path
        settings, parts = experiment.settings, experiment.parts
        trainer: TrainerSettings = settings["trainer"]
        trial = job.trial if job is not None else None
        self.metrics = experiment.build_metrics()
        self.model, objective = experiment.build(data.num_training_subjects, len(data.classes))
        memory_format = torch.channels_last_3d if trainer.channels_last else torch.contiguous_format
        self.model.to(here.device)
        set_memory_format(self.model, memory_format)
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
        self.artists = (
            [
                ReconstructionPictures(
                    settings["pictures"],
                    path / "pictures",
                    data.volumes.modalities,
                    data.volumes.cohort.spacing_mm,
                    trainer.max_epochs,
                )
            ]
            if here.is_main and data.volumes is not None
            else []
        )
        self.trainer = Trainer(
            ingredients,
            trainer,
            here,
            seed=experiment.config["seed"],
            checkpoints=path / "checkpoints",
            identity=_identity(experiment, data, here),
            observers=[
                SplitRecorder(self.model, self.metrics),
                CollapseWatch(settings["watch"], trainer.max_epochs),
                *([TrialReporter(trial)] if trial is not None and trial.metric else []),
                *self.artists,
            ],
            stop=stop,
        )
        self._resume()

    def _resume(self) -> None:
        last = self.path / "checkpoints" / "last.ckpt"
        source = last if last.is_file() else foreign_checkpoint(self.experiment)
        if source is not None:
            self.trainer.restore(source)
            state = self.trainer.state
            _log.info("going on after epoch %d and %d steps from %s", state.epoch, state.step, source)
            return
        initial = initial_weights(self.experiment)
        if initial is not None:
            self.trainer.begin_with(initial, [key for key in _MEANING_OF_WEIGHTS if key in self.trainer.identity])
            _log.info("beginning with the weights of %s", initial)

    def train_and_evaluate(self, recorder: RunRecorder | None) -> dict[str, Any]:
        """Train to the end, judge the best weights, and (on the main rank) write gates, pictures and report."""
        state = self.trainer.fit(recorder)
        self.trainer.load_best()
        evaluation = evaluate_model(
            self.model, self.trainer.inputs(self.data.train), self.trainer.outputs(self.data.val), self.metrics
        )
        gates = evaluate_gates(
            evaluation.metrics,
            self.experiment.settings["gates"].targets,
            self.metrics,
            self.experiment.supervision,
            len(evaluation.val.subject_id),
        )
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
        gates: GateTable,
        status: Mapping[str, Any],
    ) -> None:
        from menvae.evaluation.report import write_report
        from menvae.pictures.drawing.curves import draw_training_curves
        from menvae.presentation.figures import save_figure

        write_json(self.path / "gates.json", gates.as_dict())
        clock = ("time/train_s", "time/validate_s")  # of all processes of the run, not of this one alone
        seconds = sum(row[key] or 0.0 for row in local.timings() for key in clock)
        summary = {
            **status,
            "collapsed": status["state"] == "collapsed",
            "parameters": _count_parameters(self.model),
            "seconds": round(seconds, 1),
        }
        write_json(self.path / "summary.json", summary)
        pictures = self.path / "pictures"
        targets = {gate.name: gate.target for gate in gates.gates}
        save_figure(draw_training_curves(local.metrics(), targets), pictures / "training_curves.png")
        self._draw_results(evaluation, pictures)
        for artist in self.artists:
            outputs = chain(self.trainer.outputs(self.data.val), self.trainer.outputs(self.data.train))
            artist.draw(outputs, status["best_epoch"])  # a tiny validation split is filled up from training
        if self.data.embedded is not None:
            write_embeddings(self.path / "embeddings.npz", self.model, self.data, self.here.device)
        write_report(self.path)

    def _draw_results(self, evaluation: FinalEvaluation, pictures: Path) -> None:
        draw_latent_space(self.model, evaluation, self.data.classes, pictures)
        volumes = self.data.volumes
        if volumes is None:
            return
        cohort = volumes.cohort
        raw_targets = {subject.subject_id: subject.features for subject in cohort.subjects}
        draw_targets(self.model, evaluation, volumes.normalizer, raw_targets, pictures)
        means, path = evaluation.val.arrays["mean"], pictures / "traversals.png"
        draw_traversals(self.model, means, volumes.modalities[0], cohort.spacing_mm, path)


def _count_parameters(model: Model) -> dict[str, int]:
    counts = {
        name: sum(parameter.numel() for parameter in child.parameters()) for name, child in model.named_children()
    }
    return {**counts, "total": sum(counts.values())}
