"""Recording of a run: local log, trackers, progress bar."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from menvae.composition.experiment import Experiment
from menvae.console.progress import TrainingProgress
from menvae.runs.directory import RunDirectory
from menvae.runs.job import Job
from menvae.tracking.local import LocalLog
from menvae.tracking.tracker import ParentRun, TrackerContext
from menvae.tracking.trackers import Trackers


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
