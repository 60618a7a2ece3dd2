"""MLflow as a copy of the local log, maintained by one background thread that training never waits for.

The local log is written first. The thread sends everything that MLflow does not have yet, in order, so a run that was
killed, or whose store was unreachable, is complete in MLflow once a later process of the same run reaches the store:
each (key, step) exactly once. Only that thread imports MLflow.

Two states determine what is sent, and both survive a kill at any time: the local log, and the file ``mlflow_run_id``,
which stores a random token *before* the MLflow run with that token as a tag is created. After a kill between these two
steps, the next process finds the run by its token instead of creating a second one.

A server may also die, or answer too late, after it has done what it was asked: every request is repeated until it is
answered. A metric is therefore always sent with the time at which the local log has it, since MLflow keeps one row for
each key, step, time and value; and when the run ends, other runs with its token are deleted.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from menvae.masking import without_passwords
from menvae.registry import register
from menvae.tracking.local import LocalLog
from menvae.tracking.mlflow.run import Finish, KeyNames, MetricPoint, OpenRun, RunPlace, open_run
from menvae.tracking.mlflow.store import (
    configured_uri,
    first_line,
    is_away,
    open_experiment,
    say_if_from_environment,
    silence_mlflow,
    tracking_uri,
)
from menvae.tracking.tracker import DatasetInput, Status, Tracker, TrackerContext

_logger = logging.getLogger(__name__)
_MAX_METRICS_PER_BATCH = 1000
_FINISH_SECONDS = 60.0
_FINISH_ATTEMPTS = 3
_SILENT_SECONDS = 3.0  # of waiting in ``finish`` before a message
_MAX_RETRY_SECONDS = 60.0


@register("tracker", "mlflow")
class MLflowTracker(Tracker):
    """Sends the run to MLflow in the background, to the store of ``tracking.uri``.

    Only ``finish`` waits, and no method raises because of the store: its first failure is logged as a warning, sending
    is retried with growing pauses, and the next process of the same run sends what is left.

    Args:
        context: context of the run. Without a URI, ``output_dir`` contains the SQLite store and the artifacts;
            ``mlflow_run_id`` in the run directory identifies the MLflow run.

    Raises:
        UserError: ``tracking.uri`` is not a supported tracking store.
    """

    def __init__(self, context: TrackerContext) -> None:
        self._context = context
        self._place = RunPlace(
            uri=tracking_uri(context.settings, context.output_dir),
            configured_uri=configured_uri(context.settings),
            experiment=context.settings.experiment,
            output_dir=context.output_dir.resolve(),
            run_dir=context.run_dir.resolve(),
            run_name=context.run_name,
            parent=context.parent,
        )
        self._log: LocalLog | None = None
        self._last_before: _Epoch | None = None  # the last epoch of a run of which this process has trained none
        self._worker: _Worker | None = None

    @property
    def address(self) -> str:
        """Store and experiment."""
        return f"{without_passwords(self._place.uri)} {self._place.experiment}"

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
        """Open or resume the MLflow run of this run directory, and send what it lacks of the local log.

        Args:
            params: flattened configuration: dotted key -> value. Strings are logged unchanged, everything else as JSON
                (null, true, 0.001, [1, 2]).
            tags: tags of the run.
            log: the local log, rewound to the epoch at which training resumes.
            datasets: data sets of the run.
        """
        assert self._worker is None, "start is called once"
        silence_mlflow()
        say_if_from_environment(self._context.settings)
        # Read here, not in the thread: the caller may write to the log as soon as this returns.
        self._log = log
        rows: dict[int, dict[str, float | None]] = {}
        for row in log.metrics() + log.timings():
            rows.setdefault(int(row["epoch"] or 0), {}).update(row)
        epochs = [_Epoch(epoch, rows[epoch], log.timestamp_ms(epoch)) for epoch in sorted(rows)]
        if epochs:
            self._place = replace(self._place, started_ms=epochs[0].timestamp_ms)
            self._last_before = epochs[-1]
        self._worker = _Worker(self._place, _Facts(dict(params), dict(tags), list(datasets)), epochs)
        self._worker.start()

    def log(self, epoch: int, metrics: Mapping[str, float | None], timings: Mapping[str, float]) -> None:
        """Send one epoch; None, NaN and infinities are skipped. Returns immediately.

        Args:
            epoch: becomes the step.
            metrics: as written to the local log.
            timings: as written to the local log.
        """
        if self._worker is not None and self._log is not None:
            if self._last_before is not None and epoch > self._last_before.epoch:
                self._last_before = None
            self._worker.inbox.put(_Epoch(epoch, {**metrics, **timings}, self._log.timestamp_ms(epoch)))

    def log_artifacts(self, paths: Sequence[Path]) -> None:
        """Store files or folders of the run directory under the same relative path. Returns immediately.

        The thread reads them at some time before ``finish`` returns: do not change or remove them until then.

        Args:
            paths: absolute, or relative to the run directory.

        Raises:
            ValueError: a path is not in the run directory.
        """
        relative = [self._context.relative(path) for path in paths]
        if self._worker is not None:
            self._worker.inbox.put(_Artifacts(relative))

    def finish(self, status: Status, tags: Mapping[str, str] | None = None, *, patience_s: float | None = None) -> bool:
        """Send everything that is left and close the run; give up with a warning if there is no progress.

        A server that has answered before and cannot be reached now may be starting again, and is waited for; a store
        that has not answered this process at all, or that refuses a request, gets three attempts in a row.

        Args:
            status: final MLflow status of the run.
            tags: further tags of the run.
            patience_s: seconds to wait without any progress; None: 60.

        Returns:
            Whether MLflow has the complete run.
        """
        if self._worker is None:
            return False
        ended_ms = None if self._last_before is None else self._last_before.timestamp_ms
        self._worker.inbox.put(Finish(status, dict(tags or {}), ended_ms))
        self._worker.join(_SILENT_SECONDS)
        if self._worker.is_alive():
            _logger.info("sending the rest of the run to MLflow")
        patience_s = _FINISH_SECONDS if patience_s is None else patience_s
        num_delivered = -1
        while self._worker.is_alive() and self._worker.num_delivered > num_delivered:
            num_delivered = self._worker.num_delivered
            self._worker.join(patience_s)
        if self._worker.is_alive():
            self._worker.warn(f"has not answered for {patience_s:.0f} s")
            self._worker.say_incomplete()
        return self._worker.is_complete


class _Facts(NamedTuple):
    """Facts about a run that are known at its start."""

    params: dict[str, Any]
    tags: dict[str, str]
    datasets: list[DatasetInput]


class _Epoch(NamedTuple):
    epoch: int
    values: Mapping[str, float | None]
    timestamp_ms: int


class _Artifacts(NamedTuple):
    paths: list[Path]


class _Worker(threading.Thread):
    """The only thread that communicates with MLflow.

    It collects messages from ``inbox`` and tries to deliver all of them. It is a daemon thread, so a store that hangs
    cannot keep the process alive; nothing is lost with the thread, because the local log has everything.
    """

    def __init__(self, place: RunPlace, facts: _Facts, epochs: list[_Epoch]) -> None:
        super().__init__(name="menvae-mlflow", daemon=True)
        self.inbox: queue.SimpleQueue[_Epoch | _Artifacts | Finish] = queue.SimpleQueue()
        self.run_id: str | None = None
        self.is_complete = False  # everything is delivered and the run is closed
        self.num_delivered = 0  # answers of the store: ``finish`` waits for a slow store, not for one that hangs
        self._place = place
        self._facts: _Facts | None = facts
        self._logged_before = epochs
        self._points: deque[MetricPoint] = deque()
        self._names = KeyNames()
        self._artifacts: deque[Path] = deque()
        self._finish: Finish | None = None
        self._run: OpenRun | None = None
        self._doing = "opening the store"
        self._has_warned = False
        self._num_failures = 0  # in a row
        self._problem = ""  # the last one, for messages
        self._has_answered = False
        self._is_awaited = False  # it has answered, and cannot be reached now

    def run(self) -> None:
        """Deliver until the run is finished or delivery is given up."""
        for epoch in self._logged_before:
            self._take(epoch)
        num_refusals = 0  # in a row since ``finish``; none while the store is away
        self._attempt()
        while True:
            self._receive()
            num_delivered = self.num_delivered
            if self._attempt() and self._finish is not None:
                self.is_complete = True
                return
            if self._finish is not None:
                is_hopeful = self._is_awaited or self.num_delivered > num_delivered
                num_refusals = 0 if is_hopeful else num_refusals + 1
                if num_refusals == _FINISH_ATTEMPTS:
                    self.say_incomplete()
                    return

    def say_incomplete(self) -> None:
        """Log that the store lacks a part of the run, and why."""
        store = without_passwords(self._place.uri)
        _logger.info("this run is incomplete in MLflow store %s, which %s", store, self._problem)

    def warn(self, problem: str) -> None:
        """Log the first problem with the store as a warning, later ones at debug level."""
        level = logging.DEBUG if self._has_warned else logging.WARNING
        self._has_warned, self._problem = True, f"{problem} (while {self._doing})"
        _logger.log(
            level,
            "MLflow store %s %s: the run continues; its metrics are in %s and are sent once the store answers, or by "
            "menvae-sweep sync, or when the same command runs again",
            without_passwords(self._place.uri),
            self._problem,
            self._place.run_dir / "metrics.jsonl",
        )

    def _receive(self) -> None:
        """Wait for a message or for the time of the next attempt, and collect all messages."""
        pause = min(2.0 ** (self._num_failures - 1), _MAX_RETRY_SECONDS) if self._num_failures else None
        if self._finish is not None and pause is not None:
            time.sleep(min(pause, 2.0))  # no message follows ``finish``
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

    def _take(self, message: _Epoch | _Artifacts | Finish) -> None:
        if isinstance(message, _Epoch):
            self._points.extend(_points(message, self._names))
        elif isinstance(message, _Artifacts):
            self._artifacts.extend(message.paths)
        else:
            self._finish = message

    def _attempt(self) -> bool:
        """Deliver everything pending; return False, after a warning, if the store fails."""
        try:
            self._deliver()
        except Exception as error:  # noqa: BLE001 - no error of the store or its driver may stop training
            self._num_failures += 1
            self._is_awaited = self._has_answered and is_away(error)
            self.warn(f"failed: {type(error).__name__}: {first_line(error)}")
            return False
        if self._num_failures:
            _logger.info("MLflow store %s answers again and is up to date", without_passwords(self._place.uri))
        self._num_failures = 0
        return True

    def _deliver(self) -> None:
        if self._run is None:
            self._doing = "opening the store"
            client, experiment_id = open_experiment(self._place.uri, self._place.experiment, self._place.output_dir)
            self._has_answered = True
            self._doing = "opening the run"
            self._run = open_run(client, experiment_id, self._place)
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


def _points(row: _Epoch, names: KeyNames) -> list[MetricPoint]:
    """Return the metrics of one row for MLflow: every finite number except the epoch itself."""
    return [
        MetricPoint(names(key), row.epoch, float(value), row.timestamp_ms)
        for key, value in row.values.items()
        if key != "epoch" and value is not None and math.isfinite(value)
    ]
