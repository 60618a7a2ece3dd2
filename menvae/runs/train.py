"""The life of one run: its directory, training with records, results, and end."""

from __future__ import annotations

import logging
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig

from menvae import collectives
from menvae.composition.experiment import Experiment
from menvae.configuration import check_writable
from menvae.console import logs
from menvae.console.progress import TrainingProgress
from menvae.data.source import Data
from menvae.errors import ExitCode, OtherRankFailedError, OutOfMemoryError, RunInterruptedError, UserError
from menvae.files import DamagedFileError
from menvae.fingerprints import state_of
from menvae.interruption import StopRequest, stop_requests
from menvae.resources.shortage import explained, is_out_of_memory
from menvae.runs.answer import Key, Record, conclude, exit_code, key_of, remember, state_of_checkpoints
from menvae.runs.assembly import AssembledRun
from menvae.runs.delivery import hand_over
from menvae.runs.description import datasets_of, describe, params_of, tags_of
from menvae.runs.directory import ENDED, RUNS, RunDirectory, trackers_of
from menvae.runs.embeddings import add_others
from menvae.runs.environment import describe_process
from menvae.runs.extension import begin_extension
from menvae.runs.failures import FailureLog
from menvae.runs.job import Job, command
from menvae.runs.recorder import RunRecorder, run_trackers
from menvae.runs.start import check_data_of_start, check_start, files_read, identify
from menvae.tracking.local import LocalLog
from menvae.tracking.tracker import TrackingSettings
from menvae.training import checkpoint
from menvae.training.allocation import keep_freed_memory
from menvae.training.determinism import make_deterministic
from menvae.training.place import Place, num_ranks_started, place
from menvae.training.ranks import run_ranks
from menvae.training.settings import TrainerSettings

_log = logging.getLogger(__name__)

_PATIENCE_OF_JOBS_S = 60.0  # for the lock of a run: the previous process may still write its last checkpoint
_PATIENCE_WHEN_STOPPED_S = 10.0  # for trackers: schedulers kill 30 s after their signal


def train(composed: DictConfig, job: Job | None = None, prepared: object = None) -> int:
    """Train, evaluate and report one run; resume it if it is unfinished, only report it if it is finished.

    With ``trainer.devices`` larger than 1, this process starts the ranks and waits for them, unless it is a rank.

    Args:
        composed: configuration of ``conf/train.yaml``.
        job: the job, if a launcher or another rank started this process.
        prepared: `menvae.data.source.Data.prepared` of the same ``data.*``, if this process has it in memory.

    Returns:
        An exit code: ``DONE``, ``GATES_NOT_MET`` with ``gates.strict``, ``COLLAPSED`` if the watch ended the run, or
        the return value of `run_ranks`.

    Raises:
        UserError: configuration or data are invalid.
        TrainingDivergedError: a loss or gradient is not finite.
        RunInterruptedError: a signal or the time limit stopped the run; a checkpoint with every finished step is
            written.
    """
    experiment = Experiment.from_config(composed)
    settings: TrainerSettings = experiment.settings["trainer"]
    check_start(experiment)
    if settings.devices is not None and settings.devices > 1 and num_ranks_started() is None:
        with tempfile.TemporaryDirectory(prefix="menvae-") as folder:
            file = Path(folder) / "job.json"
            (job or Job(experiment.config)).write(file)
            return run_ranks(command(file), settings.devices)
    with stop_requests(settings.time_limit_min) as stop, place(settings.devices) as here:
        make_deterministic(here.device)
        if here.device.type == "cpu" and prepared is None:  # points that share a machine share its memory, too
            keep_freed_memory()
        logs.configure(None, only_errors=not here.is_main)
        try:
            return _train_here(experiment, key_of(composed, here.num_ranks), job, here, stop, prepared)
        finally:
            logs.release()


def _train_here(
    experiment: Experiment, key: Key | None, job: Job | None, here: Place, stop: StopRequest, prepared: object
) -> ExitCode:
    """Train as one rank of a run; the main rank records the outcome in ``status.json``, whatever happens."""
    check_writable(experiment.output_dir)
    is_read_here = here.is_main and prepared is None  # else another process has read the files, some time ago
    files = files_read(experiment) if is_read_here and key is not None else None
    state = ""
    if files is not None:
        try:
            state = state_of(files)  # before they are read: a later change of them is noticed
        except OSError:
            files = None
    data = experiment.load_data(here, prepared)
    check_data_of_start(experiment, data, here.num_ranks)
    identity = identify(experiment, data, here.num_ranks) if here.is_main else ""
    directory = _open_directory(experiment, identity, job) if here.is_main else None
    path = collectives.from_rank_zero(directory.path if directory else Path())
    status = collectives.from_rank_zero(directory.status() if directory else {})
    failures = FailureLog(path)
    try:
        if status["state"] == "pruned" and (job is None or job.trial is None):
            raise UserError(f"run '{path.name}' was {status['reason']}; use trainer.resume=never to train it fully")
        if status["state"] in ENDED:
            _log.info("run %s is already %s: nothing to train", path, status["state"])
            if directory is not None:
                _complete(experiment, data, here, directory, status, job)
        elif directory is not None:
            status = _main_rank_run(experiment, data, here, directory, stop, job)
        else:
            status = AssembledRun(experiment, data, here, path, stop, job).train_and_evaluate(None)
        collectives.patient_barrier()  # rank 0 still writes results, and launchers end all ranks once one has left
        if status["state"] == "paused":
            return ExitCode.DONE
        strict: bool = experiment.settings["gates"].strict
        if directory is None:
            return exit_code(status, strict=strict)
        partitions = list(experiment.supervision)
        code = conclude(directory, status, partitions, strict=strict)
        if key is not None and files is not None:
            trackers = sorted(experiment.settings["tracking"].active)
            kept = state_of_checkpoints(directory.path)
            remember(key, Record(directory.path.name, identity, files, state, kept, trackers, partitions))
        return code
    except Exception as error:
        if directory is not None and not isinstance(error, UserError):
            directory.check_kept()  # explains any error of a file
        if stop.reason and here.num_ranks > 1:  # another rank stopped first, and this one lost its connection
            _set_status(directory, "interrupted", stop.reason)
            raise RunInterruptedError(stop.reason) from error
        if not isinstance(error, OtherRankFailedError) and path.is_dir():
            failures.append(error, here.rank, here.num_ranks)
        out_of_memory = is_out_of_memory(error)
        _set_status(directory, "failed", "out of memory" if out_of_memory else failures.cause())
        if out_of_memory:
            raise _explained(experiment, here) from error
        raise
    except (RunInterruptedError, KeyboardInterrupt) as interruption:
        _set_status(directory, "interrupted", str(interruption) or "Ctrl-C twice")
        raise
    finally:
        if directory is not None:
            directory.release()


def _explained(experiment: Experiment, here: Place) -> OutOfMemoryError:
    trainer: TrainerSettings = experiment.settings["trainer"]
    recomputes, splits = trainer.activation_checkpointing, trainer.auto_batch
    size = tuple(experiment.source.size)
    return explained(
        trainer.batch_size, trainer.precision, size, recomputes=recomputes, splits=splits, device=here.device
    )


def _set_status(directory: RunDirectory | None, state: Literal["failed", "interrupted"], reason: str) -> None:
    """Record that a running run ended early, and why."""
    if directory is not None and directory.status()["state"] == "running":
        directory.end(state, reason=reason, **describe_process())


def _open_directory(experiment: Experiment, identity: str, job: Job | None) -> RunDirectory:
    runs = experiment.output_dir / RUNS
    if job is not None and job.run is not None:
        if not job.run.startswith(identity):
            raise UserError(
                f"the data changed after the sweep was launched: this job was planned as run '{job.run}' but is now "
                f"'{identity}'; launch the sweep again"
            )
        return RunDirectory(runs / job.run, _PATIENCE_OF_JOBS_S)
    return RunDirectory.choose(runs, identity, new=experiment.settings["trainer"].resume == "never")


def _main_rank_run(
    experiment: Experiment, data: Data, here: Place, directory: RunDirectory, stop: StopRequest, job: Job | None
) -> dict[str, Any]:
    """Train with all records; report the outcome to ``status.json`` and trackers, also after an error."""
    logs.configure(directory.path)
    _log.info("run %s", directory.path)
    directory.begin(**describe_process())
    trackers, local = run_trackers(experiment, directory, job), LocalLog(directory.path)

    begin_extension(experiment, directory)  # other ranks wait for this one before they look for a checkpoint
    draw = describe(experiment, data, here, directory)
    run = AssembledRun(experiment, data, here, directory.path, stop, job)
    local.rewind(run.trainer.state.epoch)
    facts = (params_of(experiment, here), tags_of(experiment, data, directory, job))

    @cache
    def start_tracking() -> None:
        trackers.start(*facts, local, datasets_of(experiment, data))

    @cache
    def start_recording() -> None:
        start_tracking()
        draw()

    try:
        state = run.trainer.state
        if state.epoch or state.step:  # an earlier process may have ended before this, and no step may be left
            start_recording()
        first_epoch = run.trainer.state.epoch + 1
        max_epochs = experiment.settings["trainer"].max_epochs
        if first_epoch <= run.last_epoch:
            _log.info("training: epochs %d to %d of %d steps", first_epoch, run.last_epoch, data.train.steps_per_epoch)
        with TrainingProgress(max_epochs, data.train.steps_per_epoch, first_epoch) as progress:
            status = run.train_and_evaluate(RunRecorder(directory, local, trackers, progress, start_recording))
    except (RunInterruptedError, KeyboardInterrupt) as interruption:
        reason = str(interruption) or "Ctrl-C twice"
        _log.info("stopped by %s", reason)
        _set_status(directory, "interrupted", reason)  # first: schedulers kill soon after their signal
        start_tracking()
        trackers.finish("KILLED", {"menvae.state": "interrupted"}, patience_s=_PATIENCE_WHEN_STOPPED_S)
        raise
    except BaseException:
        start_tracking()
        trackers.finish("FAILED", {"menvae.state": "failed"})
        raise
    if status["state"] == "paused":
        _log.info("paused %s: its search decides whether it goes on", status["reason"])
        trackers.finish("FINISHED", {"menvae.state": "paused"})
        directory.end(**status)
        return status
    tracking: TrackingSettings = experiment.settings["tracking"]
    if tracking.active:
        _log.info("sending the results to %s", ", ".join(sorted(tracking.active)))
    elif tracking.enabled and tracking.offline:
        _log.info("tracking is offline: menvae-sweep sync sends this run to its trackers")
    hand_over(trackers, tracking, directory, status)
    directory.end(**status)  # last: a run killed before this line is resumed and ends the same way
    _prune(experiment, directory)
    return status


def _prune(experiment: Experiment, directory: RunDirectory) -> None:
    last = directory.checkpoints / "last.ckpt"
    if experiment.settings["trainer"].keep_optimizer or not last.is_file():
        return
    try:
        checkpoint.without_optimizer(last)
    except DamagedFileError as error:
        _log.warning("%s; the results of this finished run do not depend on it: delete it, and use best.ckpt", error)


def _complete(
    experiment: Experiment, data: Data, here: Place, directory: RunDirectory, status: dict[str, Any], job: Job | None
) -> None:
    """Complete a finished run: add embeddings, send results to trackers that lack them, prune the checkpoint."""
    if data.embedded is not None:
        add_others(directory.path / "embeddings.npz", data)
    settings: TrackingSettings = experiment.settings["tracking"]
    if lacking := settings.active - trackers_of(status):
        trackers = run_trackers(experiment, directory, job, lacking)
        facts = (params_of(experiment, here), tags_of(experiment, data, directory, job))
        trackers.start(*facts, LocalLog(directory.path), datasets_of(experiment, data))
        hand_over(trackers, settings, directory, status)
        directory.set_status(**status)
    _prune(experiment, directory)
