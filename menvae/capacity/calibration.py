"""A few training steps in a process of its own, which tell what a process needs and how long a step takes here.

Peak memory is that of a whole process, so it is measured in one that does nothing else.
"""

from __future__ import annotations

import importlib
import math
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from menvae.capacity.variants import variant
from menvae.composition.experiment import Experiment
from menvae.errors import OutOfMemoryError
from menvae.interruption import leave_stopping_to_parent
from menvae.layers import set_memory_format
from menvae.registry import validated
from menvae.resources.machine import Peaks, measure_peaks
from menvae.resources.resident import peak_resident_bytes
from menvae.resources.shortage import is_out_of_memory
from menvae.resources.trace import without_values
from menvae.tracking.local import LocalLog
from menvae.tracking.tracker import TrackerContext, TrackingSettings
from menvae.tracking.trackers import Trackers
from menvae.training.allocation import keep_freed_memory
from menvae.training.determinism import make_deterministic
from menvae.training.place import Place
from menvae.training.settings import TrainerSettings
from menvae.training.trainer import Ingredients, Trainer
from menvae.types import Batch

NUM_SUBJECTS = 100
"""Training subjects that an objective is told of where no data are read."""

_RECORDING = ("menvae.runs.train", "matplotlib.figure", "matplotlib.backends.backend_agg", "menvae.evaluation.final")
"""Modules that a run imports after its first step."""


@dataclass(frozen=True)
class Needs:
    """What a run needs.

    Attributes:
        peak_bytes: peak memory of the training process; on a GPU, of its caching allocator.
        seconds_per_step: duration of a training step.
        seconds_per_validation_step: duration of a validation step.
    """

    peak_bytes: float
    seconds_per_step: float
    seconds_per_validation_step: float

    def seconds(self, num_training: int, num_validation: int, batch_size: int, epochs: int) -> float:
        """Return the duration of training and validation.

        Args:
            num_training: training subjects.
            num_validation: validation subjects.
            batch_size: subjects per step.
            epochs: number of epochs, each with a validation.
        """
        steps, passes = math.ceil(num_training / batch_size), math.ceil(num_validation / batch_size)
        return epochs * (steps * self.seconds_per_step + passes * self.seconds_per_validation_step)


@dataclass(frozen=True)
class Calibrated:
    """What some steps of one variant told.

    Attributes:
        changes: dotted key -> value of the variant.
        needs: measured memory and durations.
    """

    changes: Mapping[str, Any]
    needs: Needs


@dataclass(frozen=True)
class Calibration:
    """What a process found out about this machine.

    Attributes:
        variants: what each variant told, in the order of the request.
        gflops: precision -> peak in GFLOP/s.
        gb_per_s: peak of memory.
        device: ``cpu`` or ``cuda``.
    """

    variants: Sequence[Calibrated]
    gflops: Mapping[str, float]
    gb_per_s: float
    device: str


def calibrate(training: Mapping[str, Any], variants: Sequence[Mapping[str, Any]], seconds: float) -> Calibration:
    """Measure variants, and the peaks of the machine.

    Args:
        training: plain values of ``conf/train.yaml``.
        variants: dotted key -> value of each.
        seconds: of training for each.

    Raises:
        UserError: a variant is invalid.
        OutOfMemoryError: memory ran out, or the process was killed.
    """
    precisions = sorted({str(one.get("trainer.precision", "fp32")) for one in variants})
    with _processes() as processes:
        found = [
            Calibrated(changes, processes.submit(_measured, training, changes, seconds).result())
            for changes in variants
        ]
        peaks, device = processes.submit(_peaks, precisions).result()
    return Calibration(found, peaks.gflops, peaks.gb_per_s, device)


def needs(
    training: Mapping[str, Any], changes: Mapping[str, Any], seconds: float, split: tuple[int, int] | None = None
) -> Needs:
    """Measure one variant in a process of its own; see `calibrate`.

    Args:
        training: plain values of ``conf/train.yaml``.
        changes: dotted key -> value of the variant.
        seconds: of training.
        split: subjects for training and validation, which tell the size of the last batch of each; None: unknown.
    """
    with _processes() as processes:
        return processes.submit(_measured, training, changes, seconds, split).result()


@contextmanager
def _processes() -> Iterator[ProcessPoolExecutor]:
    """Provide processes that carry out one task each: the peak memory of a process is that of all that it has done."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        1, mp_context=context, initializer=leave_stopping_to_parent, max_tasks_per_child=1
    ) as processes:
        try:
            yield processes
        except (RuntimeError, MemoryError) as error:
            if not isinstance(error, BrokenProcessPool) and not is_out_of_memory(error):  # or it was killed for memory
                raise
            raise OutOfMemoryError(
                "out of memory while training steps were measured; choose smaller sizes or batch_sizes"
            ) from None


def _device() -> torch.device:
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def _peaks(precisions: list[str]) -> tuple[Peaks, str]:
    device = _device()
    return measure_peaks(device, precisions), device.type


def _measured(
    training: Mapping[str, Any], changes: Mapping[str, Any], seconds: float, split: tuple[int, int] | None = None
) -> Needs:
    """Train like a run: what it imports after its first step lies among memory that this step has freed.

    Each size of a batch takes memory of its own, which is kept: so the last batches of an epoch have theirs.
    """
    device = _device()
    make_deterministic(device)
    if device.type == "cpu":
        keep_freed_memory()
    experiment = variant(training, changes)
    with tempfile.TemporaryDirectory(prefix="menvae-") as folder:
        trainer = trainer_without_data(experiment, Place(device, 0, 1), Path(folder))
        trainer.seconds_per_step(0)
        with _recording(training, Path(folder)):
            if split is not None:
                _end_epoch(trainer, *split)
            trainer.timed_steps(0.0)
        steps = trainer.timed_steps(seconds)  # trackers, which take seconds to start, have ended
        passes = [_validation_seconds(trainer) for _ in range(2)]
    return Needs(peak_bytes(device), min(steps), min(passes))


@contextmanager
def _recording(training: Mapping[str, Any], folder: Path) -> Iterator[None]:
    """Track a run in a store of its own, beside its steps, and import what draws: both stay in memory to the end."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    settings = replace(validated(TrackingSettings, training["tracking"], "tracking"), uri=None)
    trackers = Trackers.of(TrackerContext(settings=settings, output_dir=folder, run_dir=folder, run_name="calibration"))
    trackers.start({}, {}, LocalLog(folder), [])
    for module in _RECORDING:
        importlib.import_module(module)
    yield
    trackers.finish("FINISHED", {})


def _end_epoch(trainer: Trainer, num_training: int, num_validation: int) -> None:
    """Take a step and a validation step of the last rows of each split, where they do not fill a batch."""
    ingredients, batch_size = trainer.ingredients, trainer.settings.batch_size
    whole = next(iter(ingredients.train.epoch(0)))
    rest, rest_of_validation = (
        _Repeated(whole.rows(range(rows % batch_size))) for rows in (num_training, num_validation)
    )
    trainer.ingredients = replace(ingredients, train=rest, val=rest_of_validation)
    if len(rest.batch):
        trainer.seconds_per_step(0)
    if len(rest_of_validation.batch):
        _validation_seconds(trainer)
    trainer.ingredients = ingredients


def _validation_seconds(trainer: Trainer) -> float:
    batch = next(iter(trainer.ingredients.val.epoch(0))).to(trainer.place.device, trainer.memory_format)
    trainer.model.eval()
    started = time.perf_counter()
    with torch.no_grad(), trainer.autocast():
        output = trainer.model(batch)
    float(output.posterior.mean.sum())  # waits for the device
    trainer.model.train()
    return time.perf_counter() - started


def peak_bytes(device: torch.device) -> int:
    """Return the peak memory of this process: resident memory, or that of the caching allocator of a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return peak_resident_bytes()


class _Repeated:
    """An endless epoch of one batch."""

    steps_per_epoch = 1000

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def epoch(self, epoch: int, first_step: int = 0) -> Iterable[Batch]:
        for _ in range(first_step, self.steps_per_epoch):
            yield self.batch.each(torch.clone)


def trainer_without_data(experiment: Experiment, here: Place, folder: Path) -> Trainer:
    """Return the trainer of an experiment on noise in the shapes of its data, without observers."""
    settings: TrainerSettings = experiment.settings["trainer"]
    source = experiment.source
    batch = without_values(source.size, len(source.channels), settings.batch_size, experiment.supervision, source.gives)
    batch.inputs.normal_()
    model, objective = experiment.build(NUM_SUBJECTS)
    model.to(here.device)
    set_memory_format(model, torch.channels_last_3d if settings.channels_last else torch.contiguous_format)
    ingredients = Ingredients(
        model=model,
        objective=objective,
        optimizer=experiment.parts["optimizer"](model.parameters()),
        update=experiment.parts["update"](),
        learning_rate=experiment.parts["learning_rate"](),
        curriculum=experiment.settings["curriculum"],
        train=_Repeated(batch),
        val=_Repeated(batch),
    )
    return Trainer(ingredients, settings, here, seed=0, checkpoints=folder / "checkpoints", identity={}, observers=[])
