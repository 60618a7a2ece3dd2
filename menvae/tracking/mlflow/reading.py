"""A tracking store opened for reading: nothing is created or changed, and failures are reported in one sentence."""

from __future__ import annotations

import gc
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit

from menvae.errors import UserError, nearest
from menvae.masking import without_passwords
from menvae.tracking.mlflow.store import (
    configured_uri,
    first_line,
    say_if_from_environment,
    silence_mlflow,
    sqlite_path,
    tracking_uri,
)
from menvae.tracking.tracker import TrackingSettings

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient


class NoStoreError(UserError):
    """The tracking store does not exist."""


_T = TypeVar("_T")
_PAGE_SIZE = 200


def open_store(tracking: TrackingSettings, output_dir: Path) -> tuple[MlflowClient, str]:
    """Return the MLflow client of a store, and the address of the store without passwords, for messages.

    Args:
        tracking: settings; ``uri`` is None for the store in ``output_dir``.
        output_dir: output directory of the runs.

    Raises:
        NoStoreError: the store does not exist.
        UserError: it is something else.
    """
    uri = tracking_uri(tracking, output_dir)
    place = without_passwords(uri)
    database = sqlite_path(uri)
    if database is not None:
        _check_database(database, "output_dir" if configured_uri(tracking) is None else "tracking.uri")
        place = str(database)
    silence_mlflow()
    say_if_from_environment(tracking)
    from mlflow.tracking import MlflowClient

    return answer(lambda: MlflowClient(uri), place), place


def experiment_id(client: MlflowClient, experiment: str, place: str) -> str:
    """Return the MLflow id of an experiment.

    Raises:
        UserError: the experiment does not exist, or the store cannot be read.
    """
    found = answer(lambda: client.get_experiment_by_name(experiment), place)
    if found is None or found.lifecycle_stage != "active":
        names = [one.name for one in answer(client.search_experiments, place)]
        raise UserError(f"tracking.experiment: '{experiment}' does not exist in {place}; {nearest(experiment, names)}")
    return str(found.experiment_id)


def runs_of(client: MlflowClient, experiment: str, place: str) -> Iterator[Run]:
    """Yield the runs of an experiment, without those of sweeps, the oldest first.

    Args:
        client: client of the store.
        experiment: MLflow id of the experiment.
        place: address of the store, for messages.
    """
    token: str | None = None
    while True:
        ask = partial(
            client.search_runs,
            [experiment],
            max_results=_PAGE_SIZE,
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )
        with _no_search_for_cycles():
            page = answer(ask, place)
        yield from (run for run in page if "menvae.kind" not in run.data.tags)
        token = page.token
        if not token:
            return


@contextmanager
def _no_search_for_cycles() -> Iterator[None]:
    """Keep Python's cyclic garbage collector off while MLflow makes the hundreds of objects of each run of a page.

    All of them live until the page is complete. Their number makes the collector look through everything in memory
    again and again, which takes more than half of the time; after the page it finds what MLflow leaves behind.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def name_of(run: Run) -> str:
    """Return the name of the run directory."""
    return str(run.data.tags.get("menvae.run") or run.info.run_name or run.info.run_id)


def state_of(run: Run) -> str:
    """Return the state of a run, such as ``collapsed``, or MLflow's status if menvae has not reported one."""
    return str(run.data.tags.get("menvae.state", run.info.status)).lower()


def value_of(text: str) -> Any:
    """Return the original value of a logged parameter: strings are logged unchanged, others as JSON.

    >>> [value_of(text) for text in ("null", "5.0", "[1, 2]", "adamw")]
    [None, 5.0, [1, 2], 'adamw']
    """
    try:
        return json.loads(text)
    except ValueError:
        return text


def local_path(artifact_uri: str) -> Path | None:
    """Return the folder of a run's artifacts, or None if it is not on this machine's file system."""
    parts = urlsplit(artifact_uri)
    return Path(unquote(parts.path)) if parts.scheme in ("file", "") and parts.path else None


def answer(question: Callable[[], _T], place: str) -> _T:
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
        raise NoStoreError(f"{key}: tracking store '{database}' does not exist; train first, or give another store")
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
            tables = {name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")}
    except sqlite3.DatabaseError as error:
        raise UserError(f"{key}: '{database}' cannot be read: {error}") from None
    if "experiments" not in tables:
        raise UserError(f"{key}: '{database}' is not an MLflow store")
