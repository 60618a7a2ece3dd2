"""Runs as a tracking store holds them, read and never changed, as plain data.

MLflow is imported inside functions only. What a run measured is taken from its ``gates.json``; the metrics
``gate/<name>`` of the same run must say the same, and where they do not, that is said.
"""

from __future__ import annotations

import json
import math
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import unquote, urlsplit

from menvae.errors import UserError, nearest
from menvae.tracking.mlflow.run import valid_key
from menvae.tracking.mlflow.store import first_line, silence_mlflow, sqlite_path, tracking_uri, without_password
from menvae.tracking.tracker import TrackingSettings

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient


Comparison = Literal[">", "<"]
_T = TypeVar("_T")

_PAGE_SIZE = 200
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
        uri = tracking_uri(tracking, output_dir)
        place = without_password(uri) or uri
        database = sqlite_path(uri)
        if database is not None:
            _check_database(database, "output_dir" if tracking.uri is None else "tracking.uri")
            place = str(database)
        silence_mlflow()
        from mlflow.tracking import MlflowClient

        client = _asked(lambda: MlflowClient(uri), place)
        found = _asked(lambda: client.get_experiment_by_name(tracking.experiment), place)
        if found is None or found.lifecycle_stage != "active":
            names = [experiment.name for experiment in _asked(client.search_experiments, place)]
            hint = nearest(tracking.experiment, names)
            raise UserError(f"tracking.experiment: '{tracking.experiment}' does not exist in {place}; {hint}")
        return cls(client, place, tracking.experiment, str(found.experiment_id), output_dir.resolve())

    def runs(self, sweep: str | None = None) -> tuple[list[TrackedRun], list[str]]:
        """Return the finished runs, the oldest first, and in words what was left out or does not agree.

        Args:
            sweep: only the points of this sweep; None for all runs.

        Raises:
            UserError: there is no such sweep, or no finished run.
        """
        found = [run for run in self._all() if run.data.tags.get("menvae.kind") != "sweep"]
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
                left_out.setdefault(why, []).append(_name(run))
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
        path = self._fetch(run.info.run_id, _name(run), run.info.artifact_uri, "gates.json")
        gates = _read_gates(path) if path is not None else {}
        return ("" if gates else "without a readable gates.json"), gates

    def _all(self) -> Iterator[Run]:
        token: str | None = None
        while True:
            ask = partial(
                self.client.search_runs,
                [self.experiment_id],
                max_results=_PAGE_SIZE,
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            page = _asked(ask, self.place)
            yield from page
            token = page.token
            if not token:
                return

    def _local(self, run_name: str, artifact_uri: str, name: str) -> Path | None:
        """Look for MLflow's copy, then for the original in ``output_dir``: the store may be remote or was moved."""
        artifacts = _local_path(artifact_uri)
        folders = [*([] if artifacts is None else [artifacts]), self.output_dir / "runs" / run_name]
        return next((folder / name for folder in folders if (folder / name).exists()), None)

    def _fetch(self, run_id: str, run_name: str, artifact_uri: str, name: str) -> Path | None:
        found = self._local(run_name, artifact_uri, name)
        if found is not None or _local_path(artifact_uri) is not None:
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


def _asked(question: Callable[[], _T], place: str) -> _T:
    """Return the store's answer.

    Raises:
        UserError: it has none.
    """
    from mlflow.exceptions import MlflowException

    try:
        return question()
    except MlflowException as error:
        raise UserError(f"tracking store {place} cannot be read: {first_line(error)}") from None


def _check_database(database: Path, key: str) -> None:
    """MLflow would create a database that is not there, and its tables in one that is somebody else's."""
    if not database.is_file():
        raise UserError(f"{key}: there is no tracking store '{database}'; train first, or name the store of the runs")
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
            tables = {name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")}
    except sqlite3.DatabaseError as error:
        raise UserError(f"{key}: '{database}' cannot be read: {error}") from None
    if "experiments" not in tables:
        raise UserError(f"{key}: '{database}' is not an MLflow store")


def _local_path(artifact_uri: str) -> Path | None:
    parts = urlsplit(artifact_uri)
    return Path(unquote(parts.path)) if parts.scheme in ("file", "") and parts.path else None


def _name(run: Run) -> str:
    return str(run.data.tags.get("menvae.run") or run.info.run_name or run.info.run_id)


def _tracked(run: Run, gates: Mapping[str, GateValue]) -> TrackedRun:
    tags = run.data.tags
    return TrackedRun(
        run_id=run.info.run_id,
        name=_name(run),
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
    return [f"{_name(run)}: MLflow's metrics and gates.json, which is shown, differ in {listed(different)}."]
