"""The contract of trackers, which copy runs to another place, and the context they are built with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from menvae.tracking.local import LocalLog

Status = Literal["FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True, kw_only=True)
class TrackingSettings:
    """Keys of ``tracking.*``.

    Attributes:
        uri: MLflow tracking URI: ``sqlite:////absolute/path.db``, ``http(s)://``, ``postgresql://``, ``mysql://``;
            None for the environment variable ``MLFLOW_TRACKING_URI``, or without it ``mlflow.db`` in the output
            directory.
        experiment: name of the MLflow experiment.
        enabled: False logs only to the run directory.
        offline: True sends nothing now; ``menvae-sweep sync`` sends it later, from any machine with a network.
        trackers: {key: configuration of a tracker}; ``+tracker@tracking.trackers.<key>=<name>`` adds one.
    """

    uri: str | None = None
    experiment: str = "menvae"
    enabled: bool = True
    offline: bool = False
    trackers: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"mlflow": {"name": "mlflow"}})

    @property
    def active(self) -> frozenset[str]:
        """The keys of the trackers that runs are sent to while they are trained."""
        return frozenset(self.trackers) if self.enabled and not self.offline else frozenset()


@dataclass(frozen=True)
class ParentRun:
    """The run of a sweep in trackers; the first process to reach a tracker's store creates it.

    Attributes:
        folder: folder of the sweep, where a tracker may store the id of the run.
        name: name of the sweep and of its run.
    """

    folder: Path
    name: str

    @property
    def tags(self) -> dict[str, str]:
        """Tags that distinguish it from the runs of its points."""
        return {"menvae.kind": "sweep", "menvae.sweep": self.name}


@dataclass(frozen=True)
class DatasetInput:
    """A data set that a run used.

    Attributes:
        name: name, such as ``brats``.
        digest: hash of the data used, at most 36 characters.
        source: location of the data.
        context: purpose, such as ``training``.
    """

    name: str
    digest: str
    source: str
    context: str


@dataclass(frozen=True, kw_only=True)
class TrackerContext:
    """Context of a run or sweep, with which its trackers are built.

    Attributes:
        settings: ``tracking.*``.
        output_dir: absolute path of the output directory.
        run_dir: absolute path of the run directory, or of the folder of the sweep.
        run_name: name of the run or sweep; unique in ``output_dir``.
        parent: the sweep of which the run is a point, or None.
    """

    settings: TrackingSettings
    output_dir: Path
    run_dir: Path
    run_name: str
    parent: ParentRun | None = None

    def relative(self, path: Path) -> Path:
        """Return the path of an artifact relative to the run directory; raises ValueError if it lies outside."""
        run_dir = self.run_dir.resolve()
        resolved = (run_dir / path).resolve()
        if not resolved.is_relative_to(run_dir):
            raise ValueError(f"artifact {path} is not in the run directory {run_dir}")
        return resolved.relative_to(run_dir)


class Tracker(ABC):
    """Copies one run to another place; a part of the group ``tracker``, built from a `TrackerContext`.

    The local log in the run directory is the first and complete record. A tracker sends what its store lacks, so that a
    run trained by several processes in sequence arrives complete: each process calls `start`, then `log` and
    `log_artifacts` any number of times, then `finish`, unless it is killed. Training waits for every call but continues
    without the tracker if a call raises; the next process uses the tracker again.
    """

    @property
    @abstractmethod
    def address(self) -> str:
        """Destination of the run, without passwords; a sweep is sent again if its address changes."""

    @abstractmethod
    def start(
        self,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        log: LocalLog,
        datasets: Sequence[DatasetInput] = (),
    ) -> None:
        """Open or resume the run of this run directory, and copy the content of the local log.

        Args:
            params: flattened configuration: dotted key -> value.
            tags: tags of the run.
            log: the local log, rewound to the epoch at which training resumes.
            datasets: data sets of the run.
        """

    @abstractmethod
    def log(self, epoch: int, metrics: Mapping[str, float | None], timings: Mapping[str, float]) -> None:
        """Record one epoch, which the local log already has.

        Args:
            epoch: counted from 1.
            metrics: as written to the local log; None, NaN and infinities mean a missing value.
            timings: as written to the local log.
        """

    @abstractmethod
    def log_artifacts(self, paths: Sequence[Path]) -> None:
        """Store files or folders of the run directory, which stay unchanged until `finish` returns.

        Args:
            paths: absolute, or relative to the run directory.

        Raises:
            ValueError: a path is not in the run directory.
        """

    @abstractmethod
    def finish(self, status: Status, tags: Mapping[str, str] | None = None, *, patience_s: float | None = None) -> bool:
        """Close the run.

        Args:
            status: final status of the run.
            tags: further tags of the run.
            patience_s: seconds to wait for a store that makes no progress; None leaves it to the tracker.

        Returns:
            Whether the complete run has arrived.
        """
