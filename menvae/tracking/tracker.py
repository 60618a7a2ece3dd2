"""What every tracker of runs is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    pass


Status = Literal["FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True, kw_only=True)
class TrackingSettings:
    """Where runs are tracked.

    Attributes:
        uri: MLflow tracking URI: ``sqlite:////absolute/path.db``, ``http(s)://``, ``postgresql://``, ``mysql://``;
            None for ``mlflow.db`` in the output directory.
        experiment: name of the MLflow experiment.
        enabled: False logs to the run directory only.
    """

    uri: str | None = None
    experiment: str = "menvae"
    enabled: bool = True


@dataclass(frozen=True)
class ParentRun:
    """The MLflow run of a sweep; whoever reaches the store first creates it.

    Attributes:
        folder: of the sweep; its ``mlflow_run_id`` remembers the run.
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
