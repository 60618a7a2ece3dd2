"""One MLflow run: find or create it, and send what it lacks."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import posixpath
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from menvae.files import write_atomically
from menvae.masking import masked
from menvae.tracking.mlflow.store import first_line
from menvae.tracking.tracker import DatasetInput, ParentRun, Status

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient


_logger = logging.getLogger(__name__)
_RUN_FILE = "mlflow_run_id"
_LOCK_FILE = ".mlflow_run_id.lock"
_TOKEN_TAG = "menvae.token"
_MAX_PARAMS_PER_BATCH = 100
_MAX_PARAM_LENGTH = 6000
_MAX_KEY_LENGTH = 250


@dataclass(frozen=True)
class RunPlace:
    """Store, experiment and name of one tracked run."""

    uri: str
    configured_uri: str | None  # None stays None in the run file, so a moved output directory keeps its runs
    experiment: str
    output_dir: Path
    run_dir: Path
    run_name: str
    parent: ParentRun | None
    started_ms: int | None = None  # of a run that is sent later; None: now


class MetricPoint(NamedTuple):
    """One value of one metric."""

    key: str
    step: int
    value: float
    timestamp_ms: int


class Finish(NamedTuple):
    """Final MLflow status of the run, its last tags, and the time of its end; None: now."""

    status: Status
    tags: Mapping[str, str]
    ended_ms: int | None


class FoundRun(NamedTuple):
    """The MLflow run of a folder."""

    run_id: str
    token: str
    is_new: bool


class OpenRun:
    """One MLflow run, with the parameters and metrics that it already has.

    Every request may be repeated, also while the store still works on the first: parameters and tags keep one value a
    key, and a metric one row for the same key, step, time and value. Creating a run is the exception, see `close`.
    """

    def __init__(self, client: MlflowClient, found: FoundRun) -> None:
        self.run_id = found.run_id
        self._token = found.token
        self._client = client
        run = client.get_run(found.run_id)
        self._experiment_id = run.info.experiment_id
        self._known_params: dict[str, str] = dict(run.data.params)
        self._known_steps = {
            key: {metric.step for metric in client.get_metric_history(found.run_id, key)} for key in run.data.metrics
        }

    def send_params(self, params: Mapping[str, Any]) -> None:
        """Log missing parameters; warn about changed ones, which MLflow cannot update."""
        from mlflow.entities import Param

        names = KeyNames()
        wanted = {names(key): _param_text(key, value) for key, value in params.items()}
        changed = [key for key, text in wanted.items() if self._known_params.get(key, text) != text]
        if changed:
            _logger.warning("MLflow keeps the original values of changed parameters: %s", ", ".join(changed))
        new = [Param(key, text) for key, text in wanted.items() if key not in self._known_params]
        for start in range(0, len(new), _MAX_PARAMS_PER_BATCH):
            self._client.log_batch(self.run_id, params=new[start : start + _MAX_PARAMS_PER_BATCH])
        self._known_params = wanted | self._known_params

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags, replacing older values."""
        from mlflow.entities import RunTag

        entities = [RunTag(valid_key(key), value) for key, value in tags.items()]
        for start in range(0, len(entities), _MAX_PARAMS_PER_BATCH):
            self._client.log_batch(self.run_id, tags=entities[start : start + _MAX_PARAMS_PER_BATCH])

    def send_datasets(self, datasets: Sequence[DatasetInput]) -> None:
        """Log the data sets of the run; the store ignores those it already has."""
        from mlflow import entities
        from mlflow.exceptions import MlflowException

        inputs = [
            entities.DatasetInput(
                entities.Dataset(data.name, data.digest, "local", json.dumps({"uri": data.source})),
                [entities.InputTag("mlflow.data.context", data.context)],
            )
            for data in datasets
        ]
        if not inputs:
            return
        try:
            self._client.log_inputs(self.run_id, inputs)
        except MlflowException:  # another run of the experiment has logged the same data set at the same time
            self._client.log_inputs(self.run_id, inputs)

    def send_points(self, points: Sequence[MetricPoint]) -> None:
        """Log those of at most 1000 points whose (key, step) the run does not have yet."""
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        new = {
            (point.key, point.step): Metric(point.key, point.value, point.timestamp_ms, point.step)
            for point in reversed(points)  # of two for the same (key, step) the first counts
            if point.step not in self._known_steps.get(point.key, ())
        }
        if not new:
            return
        try:
            self._client.log_batch(self.run_id, metrics=list(reversed(new.values())))
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise
            # Retrying would fail again and block everything after it.
            _logger.warning("MLflow rejects %d metric values, which are skipped: %s", len(new), first_line(error))
        for key, step in new:
            self._known_steps.setdefault(key, set()).add(step)

    def send_artifact(self, run_dir: Path, relative: Path) -> None:
        """Copy a file or a folder of the run directory."""
        source = run_dir / relative
        if source.is_dir():
            self._client.log_artifacts(self.run_id, str(source), None if relative == Path() else relative.as_posix())
        elif source.exists():
            folder = relative.parent.as_posix()
            self._client.log_artifact(self.run_id, str(source), None if folder == "." else folder)
        else:
            _logger.warning("%s does not exist, so it is not stored in MLflow", source)

    def close(self, finish: Finish) -> None:
        """Set the last tags and the final status, and delete doubles of the run.

        A server that dies, or answers too late, may have created the run without telling; the request was then
        repeated, and perhaps created a second, empty run with the same token.
        """
        self.set_tags(finish.tags)
        for run in _with_token(self._client, self._experiment_id, self._token):
            if run.info.run_id != self.run_id:
                self._client.delete_run(run.info.run_id)
        self._client.set_terminated(self.run_id, finish.status, finish.ended_ms)


def open_run(client: MlflowClient, experiment_id: str, place: RunPlace) -> OpenRun:
    """Find or create the run of this place as a child of its parent, set it to running, and return it."""
    tags = {}
    if place.parent is not None:
        parent = replace(place, run_dir=place.parent.folder, run_name=place.parent.name, parent=None)
        tags = {"mlflow.parentRunId": _find_or_create_run(client, experiment_id, parent, place.parent.tags).run_id}
        tags["menvae.sweep"] = place.parent.name
    found = _find_or_create_run(client, experiment_id, place, tags)
    if not found.is_new:
        client.update_run(found.run_id, status="RUNNING")
        for key, value in tags.items():
            client.set_tag(found.run_id, key, value)
    return OpenRun(client, found)


def run_ids(run_dir: Path) -> set[str]:
    """Return the ids of the MLflow runs that a run directory is tracked as, one a store and experiment."""
    return {str(entry["run_id"]) for entry in _read_entries(run_dir / _RUN_FILE) if entry.get("run_id")}


def _find_or_create_run(client: MlflowClient, experiment_id: str, place: RunPlace, tags: Mapping[str, str]) -> FoundRun:
    """Return the run of a folder and a store; create it with ``tags`` if there is none.

    If several processes call this at once, exactly one creates the run.
    """
    place.run_dir.mkdir(parents=True, exist_ok=True)
    with (place.run_dir / _LOCK_FILE).open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        return _find_or_create_alone(client, experiment_id, place, tags)


def _find_or_create_alone(
    client: MlflowClient, experiment_id: str, place: RunPlace, tags: Mapping[str, str]
) -> FoundRun:
    path = place.run_dir / _RUN_FILE
    here = {"uri": masked(place.configured_uri), "experiment": place.experiment}
    entries = _read_entries(path)
    entry = next((entry for entry in entries if {key: entry.get(key) for key in here} == here), None)
    if entry is None:
        entry = here | {"token": uuid.uuid4().hex, "run_id": None}
        entries.append(entry)
        _write_entries(path, entries)
    known: str | None = entry["run_id"]
    if known is not None:
        if _is_active(client, known):
            return FoundRun(known, entry["token"], is_new=False)
        _logger.warning("MLflow run %s is no longer in the store; creating a new one", known)
        entry |= {"token": uuid.uuid4().hex, "run_id": None}
        _write_entries(path, entries)
    # The token stays until the id is written: an earlier request, also of a killed process, may have created the run.
    before = _with_token(client, experiment_id, entry["token"])
    if before:
        run_id = str(before[0].info.run_id)
    else:
        marked = {_TOKEN_TAG: entry["token"], **tags}
        run = client.create_run(experiment_id, place.started_ms, marked, place.run_name)
        run_id = str(run.info.run_id)
    entry["run_id"] = run_id
    _write_entries(path, entries)
    return FoundRun(run_id, entry["token"], is_new=not before)


def _is_active(client: MlflowClient, run_id: str) -> bool:
    """Return whether a run exists and has not been deleted."""
    from mlflow.exceptions import MlflowException

    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == "active")
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False


def _with_token(client: MlflowClient, experiment_id: str, token: str) -> Sequence[Run]:
    """Return the runs with a token, the oldest first: one, or several if a request to create it was repeated."""
    oldest_first = ["attributes.start_time ASC"]
    runs: Sequence[Run] = client.search_runs([experiment_id], f"tags.`{_TOKEN_TAG}` = '{token}'", order_by=oldest_first)
    return runs


def _read_entries(path: Path) -> list[dict[str, Any]]:
    """Return the content of a run file; empty, after a warning, if it is damaged."""
    if not path.exists():
        return []
    try:
        entries: Any = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        entries = None
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and {"uri", "experiment", "token", "run_id"} <= entry.keys() for entry in entries
    ):
        _logger.warning("%s is damaged, so its runs in MLflow are not known here", path)
        return []
    return entries


def _write_entries(path: Path, entries: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(entries, indent=1) + "\n").encode())


def _param_text(key: str, value: Any) -> str:
    """Return a parameter as text, truncated to the length that MLflow allows."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    if len(text) <= _MAX_PARAM_LENGTH:
        return text
    note = f" [cut: {len(text)} characters, in full in config.yaml]"
    _logger.warning("%s has %d characters and is truncated to MLflow's limit of %d", key, len(text), _MAX_PARAM_LENGTH)
    return text[: _MAX_PARAM_LENGTH - len(note)] + note


class KeyNames:
    """Names in MLflow of the keys of one run: distinct, also where `valid_key` makes two keys equal.

    The first of them keeps the clean name, and the others end with a digest, so each process of a run, which sees the
    keys in the same order, gives the same names.
    """

    def __init__(self) -> None:
        self._key_of: dict[str, str] = {}

    def __call__(self, key: str) -> str:
        """Return the name of a key."""
        name = valid_key(key)
        if self._key_of.setdefault(name, key) == key:
            return name
        digest = hashlib.sha256(key.encode()).hexdigest()[:8]
        name = f"{name[: _MAX_KEY_LENGTH - len(digest) - 1]}_{digest}"
        self._key_of[name] = key
        return name


@lru_cache(maxsize=10_000)
def valid_key(key: str) -> str:
    """Return a key that MLflow accepts; a rejected key would lose the other 999 values of its batch too."""
    cleaned = re.sub(r"[^\w\-. :/]", "_", key)[:_MAX_KEY_LENGTH]
    return (
        cleaned
        if posixpath.normpath(cleaned) == cleaned and not cleaned.startswith(("/", ".."))
        else (re.sub(r"[./]", "_", cleaned) or "_")
    )
