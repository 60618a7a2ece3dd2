"""What trackers are told about a run besides its log, kept in its folder for those that are told later.

``tracking.json`` holds everything that a tracker needs to start the run again, without its data, its model and its
machine: `menvae.sweeps.sync` sends runs from it. Paths in it are relative to the output directory, which may be moved,
and it holds no passwords.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any

from menvae.files import DamagedFileError, Types, read_json, write_json
from menvae.masking import masked
from menvae.tracking.mlflow.store import configured_uri
from menvae.tracking.tracker import DatasetInput, TrackerContext

FILE = "tracking.json"
_TYPES: Types = {
    "uri": (str, NoneType),
    "experiment": str,
    "sweep": (str, NoneType),
    **dict.fromkeys(("trackers", "params", "tags"), dict),
    "datasets": list,
}


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Facts about a run or a sweep, for its trackers.

    Attributes:
        uri: the tracking URI that it was configured with, also by the environment.
        experiment: name of the MLflow experiment.
        trackers: {key: configuration of a tracker}.
        sweep: name of the sweep of which the run is a point, or None.
        params: flattened configuration.
        tags: tags.
        datasets: data sets.
        sent: {key of a tracker: other address to which ``menvae-sweep sync`` has sent the run}; empty once it goes on.
    """

    uri: str | None
    experiment: str
    trackers: Mapping[str, Mapping[str, Any]]
    sweep: str | None
    params: Mapping[str, Any]
    tags: Mapping[str, str]
    datasets: Sequence[DatasetInput]
    sent: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        context: TrackerContext,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        datasets: Sequence[DatasetInput],
    ) -> Facts:
        """Return the facts that trackers of a context get at the start of a run."""
        return cls(
            uri=configured_uri(context.settings),
            experiment=context.settings.experiment,
            trackers=context.settings.trackers,
            sweep=context.parent.name if context.parent else None,
            params=params,
            tags=tags,
            datasets=datasets,
        )

    def write(self, folder: Path) -> None:
        """Write them without passwords into the folder of the run or sweep, which is created if it does not exist."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / FILE, masked(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> Facts | None:
        """Read those of a folder; None if it has none, because tracking was off; raises `DamagedFileError`."""
        content = read_json(folder / FILE, _TYPES, {"sent": dict})
        if not content:
            return None
        try:
            datasets = [DatasetInput(**dataset) for dataset in content["datasets"]]
        except TypeError as error:
            raise DamagedFileError(f"'{folder / FILE}' is damaged: {error}") from None
        return cls(**{key: content[key] for key in _TYPES} | {"datasets": datasets, "sent": content.get("sent", {})})
