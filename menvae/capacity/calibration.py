"""A few training steps in a process of its own, which tell what a process needs and how long a step takes here.

    python -m menvae.capacity.calibration REQUEST ANSWER

Peak memory is that of a whole process, so it is measured in one that does nothing else.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from menvae.capacity.variants import variant
from menvae.composition.experiment import Experiment
from menvae.errors import UserError
from menvae.files import write_json
from menvae.layers import set_memory_format
from menvae.registry import validated
from menvae.resources.machine import measure_peaks
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

_OF_A_RUN = ("menvae.runs.train", "matplotlib.figure", "matplotlib.backends.backend_agg", "menvae.evaluation.final")
"""Modules that a run imports while it trains, and that stay in memory."""


@dataclass(frozen=True)
class Calibrated:
    """What some steps of one variant told.

    Attributes:
        changes: dotted key -> value of the variant.
        seconds_per_step: duration of a training step.
        seconds_per_validation_step: duration of a forward pass and loss.
        peak_bytes: peak memory of the process so far; on a GPU, of its caching allocator.
    """

    changes: Mapping[str, Any]
    seconds_per_step: float
    seconds_per_validation_step: float
    peak_bytes: int


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
    """Measure variants, smallest first, in a process of its own.

    Args:
        training: plain values of ``conf/train.yaml``.
        variants: dotted key -> value of each.
        seconds: of training for each.

    Raises:
        UserError: the process failed.
    """
    with tempfile.TemporaryDirectory(prefix="menvae-") as folder:
        request, answer = Path(folder) / "request.json", Path(folder) / "answer.json"
        write_json(request, {"training": training, "variants": list(variants), "seconds": seconds})
        command = [sys.executable, "-m", "menvae.capacity.calibration", str(request), str(answer)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not answer.is_file():
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise UserError(f"memory_gb: the steps that calibrate the estimate failed: {last}")
        found = json.loads(answer.read_text())
    return Calibration(**{**found, "variants": [Calibrated(**one) for one in found["variants"]]})


def main(request: Path, answer: Path) -> None:
    """Carry out a request of `calibrate`."""
    wanted = json.loads(request.read_text())
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    make_deterministic(device)
    if device.type == "cpu":
        keep_freed_memory()
    for module in _OF_A_RUN:
        importlib.import_module(module)
    with tempfile.TemporaryDirectory(prefix="menvae-") as folder:
        _start_trackers(wanted["training"], Path(folder))
    found = [_told(wanted["training"], changes, wanted["seconds"], device) for changes in wanted["variants"]]
    precisions = sorted({str(one.get("trainer.precision", "fp32")) for one in wanted["variants"]})
    peaks = measure_peaks(device, precisions)  # last, because it needs memory itself
    write_json(answer, asdict(Calibration(found, peaks.gflops, peaks.gb_per_s, device.type)))


def _start_trackers(training: Mapping[str, Any], folder: Path) -> None:
    """Track a run in a store of its own, because what trackers import stays in memory for the whole run."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    settings = replace(validated(TrackingSettings, training["tracking"], "tracking"), uri=None)
    trackers = Trackers.of(TrackerContext(settings=settings, output_dir=folder, run_dir=folder, run_name="calibration"))
    trackers.start({}, {}, LocalLog(folder), [])
    trackers.finish("FINISHED", {})


def _told(training: Mapping[str, Any], changes: Mapping[str, Any], seconds: float, device: torch.device) -> Calibrated:
    experiment = variant(training, changes)
    with tempfile.TemporaryDirectory(prefix="menvae-") as folder:
        trainer = trainer_without_data(experiment, Place(device, 0, 1), Path(folder))
        steps = trainer.timed_steps(seconds)
        passes = [_validation_seconds(trainer) for _ in range(2)]
    return Calibrated(dict(changes), min(steps), min(passes), peak_bytes(device))


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
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


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


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
