"""The MLflow store: its address, its creation by a single process, and one-line error messages."""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from menvae.errors import UserError
from menvae.masking import without_passwords
from menvae.tracking.tracker import TrackingSettings

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient


_logger = logging.getLogger(__name__)

_DATABASE_SCHEMES = ("sqlite", "postgresql", "mysql", "mssql")
_SERVER_SCHEMES = ("http", "https")
_VARIABLE = "MLFLOW_TRACKING_URI"
# Defaults, which the environment may override. The HTTP client's own retries would block the thread for minutes.
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
_LOCKED_SECONDS = 30.0
_store_lock = threading.Lock()  # excludes other threads; a lock file excludes other processes


def tracking_uri(settings: TrackingSettings, output_dir: Path) -> str:
    """Check and return the URI of the tracking store, without importing MLflow.

    Args:
        settings: the tracking settings; without a URI, the environment variable ``MLFLOW_TRACKING_URI`` counts, as for
            every MLflow client.
        output_dir: folder of the SQLite store if neither gives a URI.

    Raises:
        UserError: MLflow or menvae does not support the URI.
    """
    uri = configured_uri(settings)
    if uri is None:
        return _default_uri(output_dir)
    key = "tracking.uri" if settings.uri is not None else _VARIABLE
    shown = without_passwords(uri)
    scheme, separator, rest = uri.partition("://")
    kind = scheme.partition("+")[0]
    unset = "null" if key == "tracking.uri" else "no such variable"
    if not separator or kind not in _DATABASE_SCHEMES + _SERVER_SCHEMES:
        why = " (MLflow 3.13 removed its file store)" if kind == "file" or not separator else ""
        raise UserError(
            f"{key}={shown} is not a tracking store{why}; use {unset}, sqlite:////absolute/path.db, "
            "http://, https://, postgresql://, mysql:// or mssql://"
        )
    if kind == "sqlite" and not rest.startswith("//"):
        raise UserError(f"{key}={shown} must contain an absolute path, with four slashes: sqlite:////absolute/path.db")
    return uri


def configured_uri(settings: TrackingSettings) -> str | None:
    """Return the URI that the user gives, or None for the store in the output directory."""
    return settings.uri if settings.uri is not None else os.environ.get(_VARIABLE) or None


def _default_uri(output_dir: Path) -> str:
    database = output_dir.resolve() / "mlflow.db"
    if "?" in str(database):  # the address of a store ends there, and the store would lie elsewhere
        raise UserError(
            f"output_dir: '{output_dir}' contains ?, which a path to an MLflow store must not; use another folder, "
            "tracking.uri or tracking.enabled=false"
        )
    return f"sqlite:///{database}"


def say_if_from_environment(settings: TrackingSettings) -> None:
    """Log that the environment chooses the store, which no configuration file shows."""
    if settings.uri is None and (uri := configured_uri(settings)):
        _logger.info("MLflow store: %s, from %s", without_passwords(uri), _VARIABLE)


def silence_mlflow() -> None:
    """Silence MLflow (INFO lines, hints, telemetry, progress bars); call before importing it."""
    for key, value in _QUIET_ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    # Its own level, whatever MLflow configures: it logs the traceback of every error of a database, such as a lock that
    # another process holds, and raises the error again.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def open_experiment(uri: str, experiment: str, output_dir: Path) -> tuple[MlflowClient, str]:
    """Return a client and the experiment's id; create the SQLite store and the experiment if they are missing.

    Imports MLflow. Any number of processes may call this at once for a store that does not exist yet.

    Args:
        uri: return value of ``tracking_uri``.
        experiment: name of the experiment.
        output_dir: its ``mlartifacts`` stores artifacts, unless a server chooses the place.
    """
    silence_mlflow()
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    is_server = urlsplit(uri).scheme in _SERVER_SCHEMES
    artifact_root = None if is_server else (output_dir.resolve() / "mlartifacts").as_uri()
    with _sole_creator(uri):
        if artifact_root is not None:
            _create_sqlite_store(uri, artifact_root)
            _follow_moved_folder(uri, artifact_root)
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


@contextmanager
def _sole_creator(uri: str) -> Iterator[None]:
    """Prevent other processes and threads from creating the same SQLite store; does nothing for other stores."""
    database = sqlite_path(uri)
    if database is None:
        yield
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with _store_lock, database.with_name(f"{database.name}.lock").open("w") as lock:
        try:
            # A record lock, not flock: a forked data-loading worker that outlives a killed trainer must not hold it.
            fcntl.lockf(lock, fcntl.LOCK_EX)
        except OSError as error:
            _logger.warning(
                "cannot lock %s (%s): processes that create it at the same time may corrupt it", database, error
            )
        yield


def _create_sqlite_store(uri: str, artifact_root: str) -> None:
    """Create a SQLite store under a temporary name, and move it into place when it is complete.

    Schema migrations take seconds, and a database whose creation was killed half-way stays unusable.
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


def _follow_moved_folder(uri: str, artifact_root: str) -> None:
    """Correct the addresses of artifacts in a store that was moved or copied with its ``mlartifacts``.

    MLflow stores absolute addresses: new artifacts would go to the old place. Only the store beside ``mlartifacts`` is
    corrected, because one that several output directories share has addresses in all of them.
    """
    database = sqlite_path(uri)
    if database is None or (database.parent / "mlartifacts").as_uri() != artifact_root:
        return
    with closing(sqlite3.connect(database, timeout=_LOCKED_SECONDS)) as connection, connection:
        roots = connection.execute("select distinct artifact_location from experiments").fetchall()
        for (old,) in roots:
            if not str(old).endswith("/mlartifacts") or old == artifact_root or _is_here(old, database.parent):
                continue
            connection.execute(
                "update experiments set artifact_location = ? where artifact_location = ?", (artifact_root, old)
            )
            connection.execute(
                "update runs set artifact_uri = ? || substr(artifact_uri, ?) where substr(artifact_uri, 1, ?) = ?",
                (artifact_root, len(old) + 1, len(old) + 1, f"{old}/"),
            )
            _logger.info("MLflow store: artifacts are in %s now, not in %s", artifact_root, old)


def _is_here(address: str, folder: Path) -> bool:
    """Return whether the address of ``mlartifacts`` names a folder by another path, such as that of another mount."""
    parts = urlsplit(address)
    path = Path(unquote(parts.path))
    return parts.scheme != "file" or (path.parent.is_dir() and path.parent.samefile(folder))


def sqlite_path(uri: str) -> Path | None:
    """Return the file of a SQLite store; None for any other store."""
    scheme, _, rest = uri.partition("://")
    return Path(rest[1:].partition("?")[0]) if scheme.partition("+")[0] == "sqlite" else None


def is_away(error: BaseException) -> bool:
    """Return whether an error means that the store cannot be reached now, as while its server starts again.

    Imports MLflow's exceptions, so it is for errors of MLflow's client.
    """
    from mlflow.exceptions import MlflowException
    from requests.exceptions import HTTPError, RequestException

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MlflowException) and cause.error_code == "TEMPORARILY_UNAVAILABLE":
            return True
        if isinstance(cause, ConnectionError | RequestException) and not isinstance(cause, HTTPError):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def first_line(error: Exception) -> str:
    """Return the first line of an error message, truncated and with passwords masked."""
    return without_passwords(str(error).strip().partition("\n")[0])[:300] or "no message"
