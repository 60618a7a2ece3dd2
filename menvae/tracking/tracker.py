"""The contract of trackers, which copy runs to somewhere else, and what each of them is given."""

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
    """Where runs are tracked.

    Attributes:
        uri: MLflow tracking URI: ``sqlite:////absolute/path.db``, ``http(s)://``, ``postgresql://``, ``mysql://``;
            None for ``mlflow.db`` in the output directory.
        experiment: name of the experiment.
        enabled: False logs to the run directory only.
        trackers: {key: configuration of a tracker}; ``+tracker@tracking.trackers.<key>=<name>`` adds one.
    """

    uri: str | None = None
    experiment: str = "menvae"
    enabled: bool = True
    trackers: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"mlflow": {"name": "mlflow"}})

    @property
    def active(self) -> frozenset[str]:
        """The keys of the trackers that are on."""
        return frozenset(self.trackers) if self.enabled else frozenset()


@dataclass(frozen=True)
class ParentRun:
    """The run of a sweep, as trackers hold it; whoever reaches a tracker's store first creates it.

    Attributes:
        folder: of the sweep, where a tracker may remember the run.
        name: of the sweep and of the run.
    """

    folder: Path
    name: str

    @property
    def tags(self) -> dict[str, str]:
        """Tags that tell it from the runs of its points."""
        return {"menvae.kind": "sweep", "menvae.sweep": self.name}


@dataclass(frozen=True)
class DatasetInput:
    """A data set that a run used.

    Attributes:
        name: such as ``brats``.
        digest: hash of what was used, at most 36 characters.
        source: where it is.
        context: ``training`` and the like.
    """

    name: str
    digest: str
    source: str
    context: str


@dataclass(frozen=True, kw_only=True)
class TrackerContext:
    """One run, or one sweep, as its trackers are built for it.

    Attributes:
        settings: ``tracking.*``.
        output_dir: absolute path of the folder for everything that is written.
        run_dir: absolute path of the run directory, or of the folder of the sweep.
        run_name: of the run or sweep; unique in ``output_dir``.
        parent: the sweep that the run is a point of, or None.
    """

    settings: TrackingSettings
    output_dir: Path
    run_dir: Path
    run_name: str
    parent: ParentRun | None = None

    def relative(self, path: Path) -> Path:
        """Return the path of an artifact relative to the run directory; raises ValueError for one outside of it."""
        run_dir = self.run_dir.resolve()
        resolved = (run_dir / path).resolve()
        if not resolved.is_relative_to(run_dir):
            raise ValueError(f"artifact {path} is not in the run directory {run_dir}")
        return resolved.relative_to(run_dir)


class Tracker(ABC):
    """Copies one run to somewhere else; a part of the group ``tracker``, which is called with a `TrackerContext`.

    The local log in the run directory is the first and complete record. A tracker sends what it lacks of it, so that
    a run which several processes train, one after the other, arrives whole: `start` is called by each of them, then
    `log` and `log_artifacts` any number of times, then `finish`, unless the process is killed. Training waits for
    every call but may go on without the tracker: an exception ends only the tracker, until the next process.
    """

    @property
    @abstractmethod
    def address(self) -> str:
        """Where the run goes, without passwords; a sweep whose address has changed is sent again."""

    @abstractmethod
    def start(
        self,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        log: LocalLog,
        datasets: Sequence[DatasetInput] = (),
    ) -> None:
        """Open the run of this run directory, or go on with it, and take over what the local log holds.

        Args:
            params: flattened configuration: dotted key -> value.
            tags: tags of the run.
            log: the local log, rewound to where training goes on.
            datasets: what the run is trained on.
        """

    @abstractmethod
    def log(self, epoch: int, metrics: Mapping[str, float | None], timings: Mapping[str, float]) -> None:
        """Take one epoch, after the local log has it.

        Args:
            epoch: counted from 1.
            metrics: as written to the local log; None, NaN and infinities are no values.
            timings: as written to the local log.
        """

    @abstractmethod
    def log_artifacts(self, paths: Sequence[Path]) -> None:
        """Take files or folders of the run directory, which stay unchanged until `finish` returns.

        Args:
            paths: absolute, or relative to the run directory.

        Raises:
            ValueError: a path is not in the run directory.
        """

    @abstractmethod
    def finish(self, status: Status, tags: Mapping[str, str] | None = None, *, patience_s: float | None = None) -> bool:
        """Close the run.

        Args:
            status: how it ended.
            tags: further tags of the run.
            patience_s: seconds to wait for a store that makes no progress; None leaves it to the tracker.

        Returns:
            Whether all of the run has arrived.
        """
