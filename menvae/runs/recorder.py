"""Who writes a run down: local log, tracker, progress bar."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from menvae.composition.experiment import Experiment
from menvae.console.progress import TrainingProgress
from menvae.runs.directory import RunDirectory
from menvae.runs.job import Job
from menvae.tracking.local import LocalLog
from menvae.tracking.mlflow.tracker import MLflowTracker
from menvae.tracking.tracker import ParentRun

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


def tracker_of(experiment: Experiment, directory: RunDirectory, job: Job | None) -> MLflowTracker:
    """Return the tracker of a run, below the run of its sweep if it has one."""
    sweep = job.sweep if job else None
    parent = ParentRun(sweep, sweep.name) if sweep else None
    settings = experiment.settings["tracking"]
    return MLflowTracker(settings, experiment.output_dir, directory.path, directory.path.name, parent)


def hand_over(tracker: MLflowTracker, directory: RunDirectory, status: Mapping[str, Any]) -> bool:
    """Give MLflow the end of the run; return whether it has all of it."""
    table = json.loads((directory.path / "gates.json").read_text())
    values = {f"gate/{gate['name']}": gate["value"] for gate in table["gates"]}
    tracker.log(status["epochs"], {**values, "gate/passed": float(table["passed"])}, {})
    tracker.log_artifacts([path for path in sorted(directory.path.iterdir()) if path.name in _ARTIFACTS])
    tracker.log_artifacts([directory.checkpoints / "best.ckpt"])
    tags = {"menvae.state": status["state"], "menvae.gates_passed": str(status["gates_passed"])}
    return tracker.finish("FINISHED", tags)
