"""MLflow as a copy of the local log, kept by one background thread that training never waits for.

The local log is written first. The thread sends whatever MLflow does not have yet, in order, so a run that was killed,
or whose store was away, is complete in MLflow once a later process of the same run has reached the store: each
(key, step) exactly once. MLflow itself is imported in that thread only.

Two states decide what is sent, and both survive a kill at any moment: the local log, and the file ``mlflow_run_id``,
which names a random token *before* the MLflow run with that token as a tag is created. A process killed between the two
finds its run again by the token instead of opening a second one.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import posixpath
import queue
import re
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from urllib.parse import urlsplit

from menvae.errors import UserError
from menvae.tracking.local import LocalLog, write_atomically

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_logger = logging.getLogger(__name__)

Status = Literal["FINISHED", "FAILED", "KILLED"]

_DATABASE_SCHEMES = ("sqlite", "postgresql", "mysql", "mssql")
_SERVER_SCHEMES = ("http", "https")
_RUN_FILE = "mlflow_run_id"
_LOCK_FILE = ".mlflow_run_id.lock"
_TOKEN_TAG = "menvae.token"
_MAX_METRICS_PER_BATCH = 1000
_MAX_PARAMS_PER_BATCH = 100
_MAX_PARAM_LENGTH = 6000
_MAX_KEY_LENGTH = 250
_FINISH_SECONDS = 60.0
_FINISH_ATTEMPTS = 3
_SILENT_SECONDS = 3.0  # of finishing, before it says what it is waiting for
_MAX_RETRY_SECONDS = 60.0
# Only what the environment does not say otherwise. The HTTP client's own retries would hold the thread for minutes.
_QUIET_ENVIRONMENT = {
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_DISABLE_AGENT_HINT": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "GIT_PYTHON_REFRESH": "quiet",
}
_store_lock = threading.Lock()  # the lock file keeps other processes out, this one other threads


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


def tracking_uri(settings: TrackingSettings, output_dir: Path) -> str:
    """Return the URI of the tracking store, after a check that needs no MLflow.

    Args:
        settings: the tracking settings.
        output_dir: holds the SQLite store when ``settings.uri`` is None.

    Raises:
        UserError: the URI is of a kind that MLflow or menvae cannot use.
    """
    if settings.uri is None:
        return f"sqlite:///{output_dir.resolve() / 'mlflow.db'}"
    scheme, separator, rest = settings.uri.partition("://")
    kind = scheme.partition("+")[0]
    if not separator or kind not in _DATABASE_SCHEMES + _SERVER_SCHEMES:
        why = " (MLflow 3.13 removed its file store)" if kind == "file" or not separator else ""
        raise UserError(
            f"tracking.uri={settings.uri} is no tracking store{why}: allowed are null, sqlite:////absolute/path.db, "
            "http://, https://, postgresql://, mysql:// and mssql://"
        )
    if kind == "sqlite" and not rest.startswith("//"):
        raise UserError(
            f"tracking.uri={settings.uri} must be an absolute path, with four slashes: sqlite:////absolute/path.db"
        )
    return settings.uri


def silence_mlflow() -> None:
    """Keep MLflow's chatter (INFO lines, hints, telemetry, progress bars) off standard error; before it is imported."""
    for key, value in _QUIET_ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # its own level, whatever MLflow configures


def open_experiment(uri: str, experiment: str, output_dir: Path) -> tuple[MlflowClient, str]:
    """Return a client and the experiment's id; create the SQLite store and the experiment if they are not there.

    Imports MLflow. Any number of processes may call this at once on a store that does not exist yet.

    Args:
        uri: as ``tracking_uri`` returns it.
        experiment: name of the experiment.
        output_dir: artifacts go to its ``mlartifacts``, unless a server decides where.
    """
    silence_mlflow()
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    is_server = urlsplit(uri).scheme in _SERVER_SCHEMES
    artifact_root = None if is_server else (output_dir.resolve() / "mlartifacts").as_uri()
    with _sole_creator(uri):
        if artifact_root is not None:
            _create_sqlite_store(uri, artifact_root)
        client = MlflowClient(uri)
        found = client.get_experiment_by_name(experiment)
        if found is None:
            try:
                return client, client.create_experiment(experiment, artifact_location=artifact_root)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = client.get_experiment_by_name(experiment)  # another machine was first
        assert found is not None
        return client, str(found.experiment_id)


class MLflowTracker:
    """Copies a run to MLflow in the background.

    No method but ``finish`` waits, and none raises because of the store: its first failure is one warning, what could
    not be sent is tried again with growing pauses, and whatever is left is sent by the next process of the same run.

    Args:
        settings: the tracking settings.
        output_dir: holds the SQLite store and the artifacts when no URI is given.
        run_dir: the run directory; ``mlflow_run_id`` in it remembers the MLflow run.
        run_name: name of the MLflow run.
        parent: the sweep that the run is a point of, or None.

    Raises:
        UserError: ``settings.uri`` cannot be a tracking store.
    """

    def __init__(
        self,
        settings: TrackingSettings,
        output_dir: Path,
        run_dir: Path,
        run_name: str,
        parent: ParentRun | None = None,
    ) -> None:
        self._settings = settings
        self._place = _RunPlace(
            uri=tracking_uri(settings, output_dir),
            configured_uri=settings.uri,
            experiment=settings.experiment,
            output_dir=output_dir.resolve(),
            run_dir=run_dir.resolve(),
            run_name=run_name,
            parent=parent,
        )
        self._worker: _Worker | None = None

    @property
    def run_id(self) -> str | None:
        """The MLflow run's id; None until the background thread has opened the run."""
        return None if self._worker is None else self._worker.run_id

    def start(
        self,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        log: LocalLog,
        datasets: Sequence[DatasetInput] = (),
    ) -> None:
        """Open the run of this run directory, or go on with it, and send what the local log has and MLflow has not.

        Args:
            params: flattened configuration: dotted key -> value. Strings are logged as they are, everything else as
                JSON (null, true, 0.001, [1, 2]).
            tags: tags of the run.
            log: the local log, rewound to where training goes on.
            datasets: what the run is trained on.
        """
        if not self._settings.enabled:
            return
        assert self._worker is None, "start is called once"
        silence_mlflow()
        # Read here, not in the thread: the caller may write to the log as soon as this returns.
        timestamps = log.timestamps_ms()
        rows: dict[int, dict[str, float | None]] = {}
        for row in log.metrics() + log.timings():
            rows.setdefault(int(row["epoch"] or 0), {}).update(row)
        epochs = [_Epoch(epoch, rows[epoch], timestamps.get(epoch, 0)) for epoch in sorted(rows)]
        self._worker = _Worker(self._place, _Facts(dict(params), dict(tags), list(datasets)), epochs)
        self._worker.start()

    def log(self, epoch: int, metrics: Mapping[str, float | None], timings: Mapping[str, float]) -> None:
        """Send one epoch; None, NaN and infinities are left out. Returns at once.

        Args:
            epoch: becomes the step.
            metrics: as written to the local log.
            timings: as written to the local log.
        """
        if self._worker is not None:
            self._worker.inbox.put(_Epoch(epoch, {**metrics, **timings}, time.time_ns() // 1_000_000))

    def log_artifacts(self, paths: Sequence[Path]) -> None:
        """Store files or folders of the run directory under the same relative path. Returns at once.

        They are read some time before ``finish`` returns: do not change or remove them until then.

        Args:
            paths: absolute, or relative to the run directory.

        Raises:
            ValueError: a path is not in the run directory.
        """
        relative = [_relative_to(self._place.run_dir, path) for path in paths]
        if self._worker is not None:
            self._worker.inbox.put(_Artifacts(relative))

    def finish(self, status: Status, tags: Mapping[str, str] | None = None, *, patience_s: float | None = None) -> bool:
        """Send everything that is left and close the run; gives up, with a warning, after a time without any progress.

        Args:
            status: how the run ended, in MLflow's words.
            tags: further tags of the run.
            patience_s: seconds without any progress; None is 60.

        Returns:
            Whether MLflow has all of the run; False without tracking.
        """
        if self._worker is None:
            return False
        self._worker.inbox.put(_Finish(status, dict(tags or {})))
        self._worker.join(_SILENT_SECONDS)
        if self._worker.is_alive():
            _logger.info("waiting for MLflow to take the rest of the run")
        patience_s = _FINISH_SECONDS if patience_s is None else patience_s
        num_delivered = -1
        while self._worker.is_alive() and self._worker.num_delivered > num_delivered:
            num_delivered = self._worker.num_delivered
            self._worker.join(patience_s)
        if self._worker.is_alive():
            self._worker.warn(f"has not answered for {patience_s:.0f} s")
        return self._worker.is_complete


@dataclass(frozen=True)
class _RunPlace:
    """Where one run is tracked."""

    uri: str
    configured_uri: str | None  # None stays None in the run file: an output directory that moved keeps its runs
    experiment: str
    output_dir: Path
    run_dir: Path
    run_name: str
    parent: ParentRun | None


class _Facts(NamedTuple):
    """What is known of a run when it starts."""

    params: dict[str, Any]
    tags: dict[str, str]
    datasets: list[DatasetInput]


class _Point(NamedTuple):
    key: str
    step: int
    value: float
    timestamp_ms: int


class _Epoch(NamedTuple):
    epoch: int
    values: Mapping[str, float | None]
    timestamp_ms: int


class _Artifacts(NamedTuple):
    paths: list[Path]


class _Finish(NamedTuple):
    status: Status
    tags: Mapping[str, str]


class _Worker(threading.Thread):
    """The only thread that talks to MLflow.

    It takes messages from ``inbox`` into what is pending, and tries to deliver all of it. Daemonic: a store that hangs
    cannot keep the process from ending, since nothing is lost with the thread.
    """

    def __init__(self, place: _RunPlace, facts: _Facts, epochs: list[_Epoch]) -> None:
        super().__init__(name="menvae-mlflow", daemon=True)
        self.inbox: queue.SimpleQueue[_Epoch | _Artifacts | _Finish] = queue.SimpleQueue()
        self.run_id: str | None = None
        self.is_complete = False  # everything is delivered and the run is closed
        self.num_delivered = 0  # answers of the store: a slow store is waited for, one that hangs is not
        self._place = place
        self._facts: _Facts | None = facts
        self._logged_before = epochs
        self._points: deque[_Point] = deque()
        self._artifacts: deque[Path] = deque()
        self._finish: _Finish | None = None
        self._run: _OpenRun | None = None
        self._doing = "opening the store"
        self._has_warned = False
        self._num_failures = 0  # in a row

    def run(self) -> None:
        """Deliver until the run is finished, or given up."""
        for epoch in self._logged_before:
            self._take(epoch)
        finish_attempts = 0
        self._attempt()
        while True:
            self._receive()
            if self._attempt() and self._finish is not None:
                self.is_complete = True
                return
            if self._finish is not None:
                finish_attempts += 1
                if finish_attempts == _FINISH_ATTEMPTS:
                    _logger.info("MLflow store %s does not have all of this run", without_password(self._place.uri))
                    return

    def warn(self, problem: str) -> None:
        """Log the first problem with the store as a warning, later ones only for debugging."""
        level = logging.DEBUG if self._has_warned else logging.WARNING
        self._has_warned = True
        _logger.log(
            level,
            "MLflow store %s %s (while %s): the run goes on, its metrics are in %s and are sent when the store answers "
            "or when the same command runs again",
            without_password(self._place.uri),
            problem,
            self._doing,
            self._place.run_dir / "metrics.jsonl",
        )

    def _receive(self) -> None:
        """Wait for a message, or for the time of the next attempt, and take all that have come."""
        pause = min(2.0 ** (self._num_failures - 1), _MAX_RETRY_SECONDS) if self._num_failures else None
        if self._finish is not None and pause is not None:
            time.sleep(min(pause, 2.0))  # nothing comes after it
            return
        until = math.inf if pause is None else time.monotonic() + pause
        while self._finish is None:
            try:
                message = self.inbox.get(timeout=None if pause is None else max(0.0, until - time.monotonic()))
            except queue.Empty:
                return
            self._take(message)
            if pause is None and self.inbox.empty():
                return

    def _take(self, message: _Epoch | _Artifacts | _Finish) -> None:
        if isinstance(message, _Epoch):
            self._points.extend(_points(message))
        elif isinstance(message, _Artifacts):
            self._artifacts.extend(message.paths)
        else:
            self._finish = message

    def _attempt(self) -> bool:
        """Deliver all that is pending; return False, after a warning, if the store did not take it."""
        try:
            self._deliver()
        except Exception as error:  # noqa: BLE001 - whatever the store or its driver raises must not stop the training
            self._num_failures += 1
            self.warn(f"failed: {type(error).__name__}: {first_line(error)}")
            return False
        if self._num_failures:
            _logger.info("MLflow store %s answers again, nothing is missing", without_password(self._place.uri))
        self._num_failures = 0
        return True

    def _deliver(self) -> None:
        if self._run is None:
            self._doing = "opening the store"
            client, experiment_id = open_experiment(self._place.uri, self._place.experiment, self._place.output_dir)
            self._doing = "opening the run"
            self._run = _OpenRun(client, _open_run(client, experiment_id, self._place))
            self.run_id = self._run.run_id
            self.num_delivered += 1
        if self._facts is not None:
            self._doing = "logging parameters"
            self._run.send_params(self._facts.params)
            self._run.set_tags(self._facts.tags)
            self._run.send_datasets(self._facts.datasets)
            self._facts = None
        self._doing = "logging metrics"
        while self._points:
            batch = [self._points[index] for index in range(min(len(self._points), _MAX_METRICS_PER_BATCH))]
            self._run.send_points(batch)
            for _ in batch:
                self._points.popleft()
            self.num_delivered += 1
        while self._artifacts:
            self._doing = f"storing {self._artifacts[0]}"
            self._run.send_artifact(self._place.run_dir, self._artifacts[0])
            self._artifacts.popleft()
            self.num_delivered += 1
        if self._finish is not None:
            self._doing = "closing the run"
            self._run.close(self._finish)


class _OpenRun:
    """One MLflow run and what it holds already."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self.run_id = run_id
        self._client = client
        data = client.get_run(run_id).data
        self._known_params: dict[str, str] = dict(data.params)
        self._known_steps = {
            key: {metric.step for metric in client.get_metric_history(run_id, key)} for key in data.metrics
        }

    def send_params(self, params: Mapping[str, Any]) -> None:
        """Log the parameters that are not there; say which ones MLflow, which never changes one, has otherwise."""
        from mlflow.entities import Param

        wanted = {valid_key(key): _param_text(key, value) for key, value in params.items()}
        changed = [key for key, text in wanted.items() if self._known_params.get(key, text) != text]
        if changed:
            _logger.warning("MLflow keeps the parameters the run began with, not today's: %s", ", ".join(changed))
        new = [Param(key, text) for key, text in wanted.items() if key not in self._known_params]
        for start in range(0, len(new), _MAX_PARAMS_PER_BATCH):
            self._client.log_batch(self.run_id, params=new[start : start + _MAX_PARAMS_PER_BATCH])
        self._known_params = wanted | self._known_params

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags, over older values."""
        from mlflow.entities import RunTag

        entities = [RunTag(valid_key(key), value) for key, value in tags.items()]
        for start in range(0, len(entities), _MAX_PARAMS_PER_BATCH):
            self._client.log_batch(self.run_id, tags=entities[start : start + _MAX_PARAMS_PER_BATCH])

    def send_datasets(self, datasets: Sequence[DatasetInput]) -> None:
        """Log what the run is trained on; the store ignores what it has."""
        from mlflow import entities

        inputs = [
            entities.DatasetInput(
                entities.Dataset(data.name, data.digest, "local", json.dumps({"uri": data.source})),
                [entities.InputTag("mlflow.data.context", data.context)],
            )
            for data in datasets
        ]
        if inputs:
            self._client.log_inputs(self.run_id, inputs)

    def send_points(self, points: Sequence[_Point]) -> None:
        """Log the points, at most 1000, whose (key, step) the run does not have."""
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
            # Trying again would not help and would hold back everything that comes after.
            _logger.warning("MLflow refuses %d metric values, left out: %s", len(new), first_line(error))
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
            _logger.warning("%s is not there, so it is not stored in MLflow", source)

    def close(self, finish: _Finish) -> None:
        """Set the last tags and the final status."""
        self.set_tags(finish.tags)
        self._client.set_terminated(self.run_id, finish.status)


def _open_run(client: MlflowClient, experiment_id: str, place: _RunPlace) -> str:
    """Return the id of the run of this place, as a child of its parent, running."""
    tags = {}
    if place.parent is not None:
        parent = replace(place, run_dir=place.parent.folder, run_name=place.parent.name, parent=None)
        tags = {"mlflow.parentRunId": _find_or_create_run(client, experiment_id, parent, place.parent.tags)[0]}
        tags["menvae.sweep"] = place.parent.name
    run_id, is_new = _find_or_create_run(client, experiment_id, place, tags)
    if not is_new:
        client.update_run(run_id, status="RUNNING")
        for key, value in tags.items():
            client.set_tag(run_id, key, value)
    return run_id


def _find_or_create_run(
    client: MlflowClient, experiment_id: str, place: _RunPlace, tags: Mapping[str, str]
) -> tuple[str, bool]:
    """Return the id of the run that belongs to a folder and a store, and whether it was created, with ``tags``, now.

    Of several processes that call this at once one creates it.
    """
    place.run_dir.mkdir(parents=True, exist_ok=True)
    with (place.run_dir / _LOCK_FILE).open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        return _find_or_create_alone(client, experiment_id, place, tags)


def _find_or_create_alone(
    client: MlflowClient, experiment_id: str, place: _RunPlace, tags: Mapping[str, str]
) -> tuple[str, bool]:
    from mlflow.exceptions import MlflowException

    path = place.run_dir / _RUN_FILE
    here = {"uri": without_password(place.configured_uri), "experiment": place.experiment}
    entries = _read_entries(path)
    entry = next((entry for entry in entries if {key: entry.get(key) for key in here} == here), None)
    if entry is None:
        entry = here | {"token": uuid.uuid4().hex, "run_id": None}
        entries.append(entry)
        _write_entries(path, entries)
    run_id = entry["run_id"]
    if run_id is None:  # killed between the two writes of this file, or new
        found = client.search_runs([experiment_id], f"tags.`{_TOKEN_TAG}` = '{entry['token']}'", max_results=1)
        run_id = found[0].info.run_id if found else None
    else:
        try:
            run = client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            run_id = None
        else:
            run_id = run_id if run.info.lifecycle_stage == "active" else None
        if run_id is None:
            _logger.warning("MLflow run %s is no longer in the store: the run gets a new one", entry["run_id"])
    is_new = run_id is None
    if is_new:
        entry["token"] = uuid.uuid4().hex
        entry["run_id"] = None
        _write_entries(path, entries)
        run = client.create_run(experiment_id, run_name=place.run_name, tags={_TOKEN_TAG: entry["token"], **tags})
        run_id = run.info.run_id
    if entry["run_id"] != run_id:
        entry["run_id"] = run_id
        _write_entries(path, entries)
    return str(run_id), is_new


def _read_entries(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    entries: list[dict[str, Any]] = json.loads(path.read_text())
    return entries


def _write_entries(path: Path, entries: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(entries, indent=1) + "\n").encode())


@contextmanager
def _sole_creator(uri: str) -> Iterator[None]:
    """Keep other processes and threads from creating the same SQLite store; nothing for other stores."""
    database = sqlite_path(uri)
    if database is None:
        yield
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with _store_lock, database.with_name(f"{database.name}.lock").open("w") as lock:
        try:
            # A record lock, not flock: a forked data-loading worker that outlives a killed trainer must not keep it.
            fcntl.lockf(lock, fcntl.LOCK_EX)
        except OSError as error:
            _logger.warning(
                "%s cannot be locked (%s): processes that create it at the same moment may break it", database, error
            )
        yield


def _create_sqlite_store(uri: str, artifact_root: str) -> None:
    """Create a SQLite store under another name and move it into place when it is whole.

    Creating takes seconds of schema migrations, and a database whose creation was killed half way stays unusable.
    """
    database = sqlite_path(uri)
    if database is None or (database.exists() and database.stat().st_size > 0):
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    unfinished = database.with_name(f"{database.name}.creating")
    for leftover in (unfinished, unfinished.with_name(f"{unfinished.name}-journal")):
        leftover.unlink(missing_ok=True)
    store: Any = SqlAlchemyStore(f"sqlite:///{unfinished}", artifact_root)  # type: ignore[no-untyped-call]
    store.engine.dispose()
    unfinished.replace(database)


def sqlite_path(uri: str) -> Path | None:
    """Return the file of a SQLite store; None for any other store."""
    scheme, _, rest = uri.partition("://")
    return Path(rest[1:].partition("?")[0]) if scheme.partition("+")[0] == "sqlite" else None


def _points(row: _Epoch) -> list[_Point]:
    """Return what MLflow gets of one row: every finite number but the epoch itself."""
    timestamp_ms = row.timestamp_ms or time.time_ns() // 1_000_000
    return [
        _Point(valid_key(key), row.epoch, float(value), timestamp_ms)
        for key, value in row.values.items()
        if key != "epoch" and value is not None and math.isfinite(value)
    ]


def _param_text(key: str, value: Any) -> str:
    """Return a parameter as text, in full as far as MLflow allows."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    if len(text) <= _MAX_PARAM_LENGTH:
        return text
    note = f" [cut: {len(text)} characters, in full in config.yaml]"
    _logger.warning("%s has %d characters, more than MLflow's %d: cut there", key, len(text), _MAX_PARAM_LENGTH)
    return text[: _MAX_PARAM_LENGTH - len(note)] + note


@lru_cache(maxsize=10_000)
def valid_key(key: str) -> str:
    """Return a key that MLflow accepts; one it refuses would take the other 999 values of its batch with it."""
    cleaned = re.sub(r"[^\w\-. :/]", "_", key)[:_MAX_KEY_LENGTH]
    return (
        cleaned
        if posixpath.normpath(cleaned) == cleaned and not cleaned.startswith(("/", ".."))
        else (re.sub(r"[./]", "_", cleaned) or "_")
    )


def _relative_to(run_dir: Path, path: Path) -> Path:
    resolved = (run_dir / path).resolve()
    if not resolved.is_relative_to(run_dir):
        raise ValueError(f"artifact {path} is not in the run directory {run_dir}")
    return resolved.relative_to(run_dir)


def without_password(uri: str | None) -> str | None:
    """Return a URI that may be shown."""
    return None if uri is None else re.sub(r"(://[^/@:]*):[^/@]*@", r"\1:***@", uri)


def first_line(error: Exception) -> str:
    """Return what a store or its driver says, short and without a password."""
    return without_password(str(error).strip().partition("\n")[0][:300]) or "no message"
