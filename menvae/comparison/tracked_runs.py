"""Runs as a tracking store holds them, read and never changed, as plain data.

MLflow is imported inside functions only. What a run measured is taken from its ``gates.json``; the metrics
``gate/<name>`` of the same run must say the same, and where they do not, that is said.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from menvae.errors import UserError, nearest
from menvae.tracking.mlflow.reading import experiment_id, local_path, name_of, open_store, runs_of
from menvae.tracking.mlflow.run import valid_key
from menvae.tracking.tracker import TrackingSettings

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient


Comparison = Literal[">", "<"]

_COMPARED_STATES = ("finished", "collapsed")
"""What ``menvae.state`` says of a run that was judged at its own end; another (such as pruned) was cut short."""


@dataclass(frozen=True)
class GateValue:
    """One gate of one run, as its ``gates.json`` has it.

    Attributes:
        name: of the gate.
        value: what was measured; None if it could not be.
        target: the least acceptable value.
        comparison: ``>`` where larger is better, ``<`` where smaller is.
        passed: the verdict of the run.
        reason: why there is no value, or empty.
    """

    name: str
    value: float | None
    target: float
    comparison: Comparison
    passed: bool
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """One finished run.

    Attributes:
        run_id: MLflow's.
        name: of its run directory.
        state: ``finished``, or ``collapsed`` where the collapse watch ended it.
        started_ms: when it began, milliseconds since 1970.
        params: dotted configuration key -> value as text, in the order of the configuration.
        gates: by name, in the order of ``gates.json``.
        data_hash: of the prepared cohort.
        targets_hash: of normaliser and residualiser.
        git_commit: of the code.
        artifact_uri: where MLflow keeps its files.
        outside_identity: keys of ``data.*`` that its source declared to say nothing about the result; None for a run
            from before runs kept them.
    """

    run_id: str
    name: str
    params: Mapping[str, str]
    gates: Mapping[str, GateValue]
    state: str = "finished"
    started_ms: int = 0
    data_hash: str = ""
    targets_hash: str = ""
    git_commit: str = ""
    artifact_uri: str = ""
    outside_identity: tuple[str, ...] | None = None

    @property
    def seed(self) -> str:
        """The seed as text; empty where the configuration has none."""
        return self.params.get("seed", "")


@dataclass
class RunStore:
    """One experiment of a tracking store.

    Attributes:
        client: MLflow's client of the store.
        place: the store, as it may be named to a user.
        experiment: name of the experiment.
        experiment_id: MLflow's id of it.
        output_dir: holds ``runs/``, where the originals of the artifacts may still lie.
    """

    client: MlflowClient
    place: str
    experiment: str
    experiment_id: str
    output_dir: Path

    @classmethod
    def open(cls, tracking: TrackingSettings, output_dir: Path) -> RunStore:
        """Open a store for reading; nothing is created.

        Raises:
            UserError: there is no such store or experiment, or it cannot be read.
        """
        client, place = open_store(tracking, output_dir)
        found = experiment_id(client, tracking.experiment, place)
        return cls(client, place, tracking.experiment, found, output_dir.resolve())

    def runs(self, sweep: str | None = None) -> tuple[list[TrackedRun], list[str]]:
        """Return the finished runs, the oldest first, and in words what was left out or does not agree.

        Args:
            sweep: only the points of this sweep; None for all runs.

        Raises:
            UserError: there is no such sweep, or no finished run.
        """
        found = list(runs_of(self.client, self.experiment_id, self.place))
        if sweep is not None:
            known = {run.data.tags["menvae.sweep"] for run in found if "menvae.sweep" in run.data.tags}
            if sweep not in known:
                raise UserError(f"sweep: '{sweep}' has no run in {self.place}; {nearest(sweep, known)}")
            found = [run for run in found if run.data.tags.get("menvae.sweep") == sweep]
        runs: list[TrackedRun] = []
        left_out: dict[str, list[str]] = {}
        disagreements: list[str] = []
        for run in found:
            why, gates = self._judged(run)
            if why:
                left_out.setdefault(why, []).append(name_of(run))
                continue
            runs.append(_tracked(run, gates))
            disagreements += _disagreements(run, gates)
        notes = [f"Not compared: {_listing(left_out)}."] if left_out else []
        if not runs:
            there = f"it has {_listing(left_out)}" if left_out else "it is empty"
            raise UserError(f"experiment '{self.experiment}' in {self.place} has no finished run to compare: {there}")
        return runs, notes + disagreements

    def artifact(self, run: TrackedRun, name: str) -> Path | None:
        """Return a file or folder of a run, fetched where it is not on this machine; None if there is none.

        Args:
            run: whose file.
            name: relative path, such as ``gates.json``.
        """
        return self._fetch(run.run_id, run.name, run.artifact_uri, name)

    def local_artifact(self, run: TrackedRun, name: str) -> Path | None:
        """Return a file or folder of a run; None if it is not on this machine."""
        return self._local(run.name, run.artifact_uri, name)

    def _judged(self, run: Run) -> tuple[str, dict[str, GateValue]]:
        """Return why a run is not compared, or nothing and its gates."""
        status, state = str(run.info.status).lower(), run.data.tags.get("menvae.state", "finished")
        if status != "finished":
            return status, {}
        if state not in _COMPARED_STATES:
            return state, {}
        path = self._fetch(run.info.run_id, name_of(run), run.info.artifact_uri, "gates.json")
        gates = _read_gates(path) if path is not None else {}
        return ("" if gates else "without a readable gates.json"), gates

    def _local(self, run_name: str, artifact_uri: str, name: str) -> Path | None:
        """Look for MLflow's copy, then for the original in ``output_dir``: the store may be remote or was moved."""
        artifacts = local_path(artifact_uri)
        folders = [*([] if artifacts is None else [artifacts]), self.output_dir / "runs" / run_name]
        return next((folder / name for folder in folders if (folder / name).exists()), None)

    def _fetch(self, run_id: str, run_name: str, artifact_uri: str, name: str) -> Path | None:
        found = self._local(run_name, artifact_uri, name)
        if found is not None or local_path(artifact_uri) is not None:
            return found
        from mlflow.exceptions import MlflowException

        try:
            return Path(self.client.download_artifacts(run_id, name, str(self._folder(run_id))))
        except (MlflowException, OSError):
            return None

    def _folder(self, run_id: str) -> Path:
        folder = Path(self._temporary.name) / run_id
        folder.mkdir(exist_ok=True)
        return folder

    @cached_property
    def _temporary(self) -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory(prefix="menvae-compare-")


def listed(names: Sequence[str], most: int = 6) -> str:
    """Name a few things, and count the rest.

    >>> listed(["a", "b"]), listed(list("abcdefgh"))
    ('a, b', 'a, b, c, d, e, f and 2 more')
    """
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def _listing(left_out: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{len(names)} {why} ({listed(names)})" for why, names in sorted(left_out.items()))


def _tracked(run: Run, gates: Mapping[str, GateValue]) -> TrackedRun:
    tags = run.data.tags
    return TrackedRun(
        run_id=run.info.run_id,
        name=name_of(run),
        params=dict(run.data.params),
        gates=gates,
        state=tags.get("menvae.state", "finished"),
        started_ms=int(run.info.start_time or 0),
        data_hash=tags.get("menvae.data_hash", ""),
        targets_hash=tags.get("menvae.targets_hash", ""),
        git_commit=tags.get("menvae.git_commit", ""),
        artifact_uri=run.info.artifact_uri or "",
        outside_identity=tuple(outside.split()) if (outside := tags.get("menvae.outside_identity")) else None,
    )


def _read_gates(path: Path) -> dict[str, GateValue]:
    """Return the gates of a run; none where the file is damaged."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["gates"]
        return {str(entry["name"]): _gate(entry) for entry in entries}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def _gate(entry: Mapping[str, Any]) -> GateValue:
    value, comparison = entry["value"], entry["comparison"]
    if comparison not in (">", "<"):
        raise ValueError(f"comparison {comparison!r} is neither > nor <")
    known = isinstance(value, int | float) and math.isfinite(value)
    return GateValue(
        name=str(entry["name"]),
        value=float(value) if known else None,
        target=float(entry["target"]),
        comparison=comparison,
        passed=entry["passed"] is True,
        reason=str(entry.get("reason") or ""),
    )


def _disagreements(run: Run, gates: Mapping[str, GateValue]) -> list[str]:
    """Say where MLflow's metrics and ``gates.json`` differ: then one of them was changed later."""
    metrics = {key.removeprefix("gate/"): value for key, value in run.data.metrics.items() if key.startswith("gate/")}
    different = [name for name, gate in gates.items() if metrics.get(valid_key(name)) != gate.value]
    if not different:
        return []
    return [f"{name_of(run)}: MLflow's metrics and gates.json, which is shown, differ in {listed(different)}."]
