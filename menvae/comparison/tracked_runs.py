"""Finished runs of a tracking store, as plain data; the store is only read.

MLflow is imported inside functions only. Results come from the ``gates.json`` of each run; a note reports a run whose
``gate/<name>`` metrics differ from it.
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
"""Values of ``menvae.state`` of runs that are compared; runs in other states, such as pruned, were cut short."""


@dataclass(frozen=True)
class GateValue:
    """One gate of one run, from its ``gates.json``.

    Attributes:
        name: name of the gate.
        value: measured value; None if it could not be computed.
        target: the least acceptable value.
        comparison: ``>`` if larger is better, ``<`` if smaller is better.
        passed: whether the run passed the gate.
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
        run_id: MLflow id.
        name: name of its run directory.
        state: ``finished``, or ``collapsed`` if the collapse watch ended it.
        started_ms: start time in milliseconds since 1970.
        params: dotted configuration key -> value as text, in the order of the configuration.
        gates: gates by name, in the order of ``gates.json``.
        data_hash: hash of the prepared cohort.
        targets_hash: hash of normaliser and residualiser.
        git_commit: commit of the code.
        artifact_uri: MLflow's location of its files.
        outside_identity: keys of ``data.*`` that its source declares irrelevant to the result; None for runs of older
            versions, which did not record them.
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
        """The seed as text; empty if the configuration has none."""
        return self.params.get("seed", "")


@dataclass
class RunStore:
    """One experiment of a tracking store.

    Attributes:
        client: MLflow client of the store.
        place: address of the store without passwords, for messages.
        experiment: name of the experiment.
        experiment_id: its MLflow id.
        output_dir: contains ``runs/``, which may still have the original artifacts.
    """

    client: MlflowClient
    place: str
    experiment: str
    experiment_id: str
    output_dir: Path

    @classmethod
    def open(cls, tracking: TrackingSettings, output_dir: Path) -> RunStore:
        """Open a store for reading, without creating anything.

        Raises:
            UserError: the store or the experiment does not exist or cannot be read.
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
        """Return the finished runs, the oldest first, and notes on skipped runs and on disagreements.

        Args:
            sweep: only the points of this sweep; None for all runs.

        Raises:
            UserError: the sweep does not exist, or no run has finished.
        """
        found = [run for run in self._all() if run.data.tags.get("menvae.kind") != "sweep"]
        if sweep is not None:
            known = {run.data.tags["menvae.sweep"] for run in found if "menvae.sweep" in run.data.tags}
            if sweep not in known:
                raise UserError(f"sweep.name: '{sweep}' has no run in {self.place}; {nearest(sweep, known)}")
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
        """Return a file or folder of a run, downloaded if it is not on this machine; None if it does not exist.

        Args:
            run: the run.
            name: relative path, such as ``gates.json``.
        """
        return self._fetch(run.run_id, run.name, run.artifact_uri, name)

    def local_artifact(self, run: TrackedRun, name: str) -> Path | None:
        """Return a file or folder of a run; None if it is not on this machine."""
        return self._local(run.name, run.artifact_uri, name)

    def _judged(self, run: Run) -> tuple[str, dict[str, GateValue]]:
        """Return why a run is not compared (empty if it is), and its gates."""
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
        """Look for MLflow's copy, then for the original in ``output_dir``: the store may be remote or moved."""
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
    """List the first ``most`` names and count the rest.

    >>> listed(["a", "b"]), listed(list("abcdefgh"))
    ('a, b', 'a, b, c, d, e, f and 2 more')
    """
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def _listing(left_out: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{len(names)} {why} ({listed(names)})" for why, names in sorted(left_out.items()))


def _asked(question: Callable[[], _T], place: str) -> _T:
    """Query the store.

    Raises:
        UserError: the query fails.
    """
    from mlflow.exceptions import MlflowException

    try:
        return question()
    except MlflowException as error:
        raise UserError(f"tracking store {place} cannot be read: {first_line(error)}") from None


def _check_database(database: Path, key: str) -> None:
    """Refuse anything but an MLflow database: MLflow would create a missing one, and its tables in a foreign one."""
    if not database.is_file():
        raise UserError(f"{key}: tracking store '{database}' does not exist; train first, or give another store")
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
    """Return the gates of a run; empty if the file is damaged."""
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
    """Report gates whose MLflow metric and ``gates.json`` differ, because one of them was changed later."""
    metrics = {key.removeprefix("gate/"): value for key, value in run.data.metrics.items() if key.startswith("gate/")}
    different = [name for name, gate in gates.items() if metrics.get(valid_key(name)) != gate.value]
    if not different:
        return []
    return [f"{_name(run)}: MLflow metrics and gates.json differ in {listed(different)}; gates.json is shown."]
