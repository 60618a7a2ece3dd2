"""Recording of a run: local log, trackers, progress bar."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from menvae.composition.experiment import Experiment
from menvae.console.progress import TrainingProgress
from menvae.gates import gate_values
from menvae.runs.directory import RunDirectory, trackers_of
from menvae.runs.evaluation import PER_SUBJECT
from menvae.runs.job import Job
from menvae.runs.reading import EVALUATION, final_values, read_mapping
from menvae.tracking.local import LocalLog
from menvae.tracking.tracker import ParentRun, TrackerContext, TrackingSettings
from menvae.tracking.trackers import Trackers

_ARTIFACTS = {
    "train.log",
    "config.yaml",
    "environment.json",
    "metrics.jsonl",
    "metrics.csv",
    "gates.json",
    EVALUATION,
    PER_SUBJECT,
    "targets.json",
    "splits.csv",
    "summary.json",
    "pictures",
    "report.html",
    "embeddings.npz",
    "error.txt",
    "profile.json",
    "profile_trace.json",
}
"""Files of a run directory that trackers receive, besides the best weights."""


class RunRecorder:
    """Records a run on the main rank: in the local log first, then trackers, then the progress bar."""

    def __init__(
        self,
        directory: RunDirectory,
        local: LocalLog,
        trackers: Trackers,
        progress: TrainingProgress,
        start: Callable[[], object],
    ) -> None:
        """Set the destinations.

        Args:
            directory: directory of the run.
            local: log on disk.
            trackers: MLflow and others.
            progress: progress bar or lines.
            start: starts trackers and draws the pictures due before training; called after every step, and has to act
                once. The first step thus does not wait for MLflow and matplotlib.
        """
        self.local, self.trackers, self.progress = local, trackers, progress
        self._directory = directory
        self._start = start

    def step(self, epoch: int, step: int, losses: Callable[[], Mapping[str, float]]) -> None:
        """Show the progress of a step."""
        self.progress.step(epoch, step, losses)
        self._start()

    def epoch_end(self, epoch: int, metrics: Mapping[str, float | None], timings: Mapping[str, float]) -> None:
        """Log, track and show an epoch; raises `UserError` if the run directory was removed."""
        self._directory.check_kept()
        self.local.append(epoch, metrics, timings)
        self.trackers.log(epoch, metrics, timings)
        self.progress.epoch_end(epoch, metrics, sum(value for key, value in timings.items() if key.startswith("time/")))


def run_trackers(
    experiment: Experiment, directory: RunDirectory, job: Job | None, only: Collection[str] | None = None
) -> Trackers:
    """Return the trackers of a run, nested under the run of its sweep if it has one.

    Args:
        experiment: the experiment.
        directory: directory of the run.
        job: its job, if a launcher started it.
        only: keys of the trackers to return; None: all that are enabled.
    """
    sweep = job.sweep if job else None
    context = TrackerContext(
        settings=experiment.settings["tracking"],
        output_dir=experiment.output_dir,
        run_dir=directory.path,
        run_name=directory.path.name,
        parent=ParentRun(sweep, sweep.name) if sweep else None,
    )
    return Trackers.of(context, only)


def hand_over(trackers: Trackers, settings: TrackingSettings, directory: RunDirectory, status: dict[str, Any]) -> None:
    """Send trackers the results of the run, and add to the status which of them have the complete run."""
    final = final_values(read_mapping(directory.path / EVALUATION))
    trackers.log(status["epochs"], {**gate_values(directory.gates()), **final}, {})
    trackers.log_artifacts([path for path in sorted(directory.path.iterdir()) if path.name in _ARTIFACTS])
    trackers.log_artifacts([directory.checkpoints / "best.ckpt"])
    tags = {"menvae.state": status["state"], "menvae.gates_passed": str(status["gates_passed"])}
    have_all = trackers_of(status) | trackers.finish("FINISHED", tags)
    status["trackers"] = sorted(have_all)
    status["tracked"] = bool(settings.active) and settings.active <= have_all
