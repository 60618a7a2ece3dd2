"""``python -m menvae.apps.warmed``: a process that has imported everything, and forks a process for each point.

A point that starts alone imports for seconds and opens its cohort again. Here both happen once; what every point reads
is in memory once, because forked processes share the pages that none of them writes. A point is otherwise the process
that `menvae.apps.job` is: own process group, stop signals, log and ``outcome.json``.

Threads and CUDA contexts do not survive a fork: this process computes with one thread and never touches a GPU.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import select
import signal
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import torch
from threadpoolctl import threadpool_limits

from menvae.apps import job as lone
from menvae.errors import UserError
from menvae.interruption import STOP_SIGNALS, call_process, stop_with_parent
from menvae.registry import validated
from menvae.runs.environment import code_hash
from menvae.runs.job import Job
from menvae.runs.opened import OpenedCohorts
from menvae.tracking.tracker import TrackingSettings

_IMPORTED_LATE = (
    "menvae.presentation.figures",
    "menvae.runs.facts",
    "menvae.runs.gates_table",
    "menvae.runs.report",
    "menvae.runs.train",
    "scipy.stats",
    "torch._inductor",  # by `torch.use_deterministic_algorithms`
)
"""What a run imports only when it needs it."""

_IMPORTED_BY_MLFLOW = ("mlflow.entities", "mlflow.store.tracking.sqlalchemy_store", "mlflow.tracking")
_SECONDS_BETWEEN_LOOKS = 0.05


class WarmedProcess:
    """This process, as the parent of points."""

    def __init__(self) -> None:
        """Import what runs need, and stay with one thread."""
        gc.disable()  # imports make little garbage, and collecting it takes a tenth of the time
        for module in _IMPORTED_LATE:
            importlib.import_module(module)
        code_hash()  # kept for all points
        torch.get_num_threads()  # sets that of OpenMP once, which must not undo the next line
        self._threads = threadpool_limits(1)
        self._cohorts = OpenedCohorts()
        self._tracks = False
        gc.enable()

    def start(self, path: Path, log: Path) -> int:
        """Fork the process of a point.

        Args:
            path: its job file.
            log: receives its output.

        Returns:
            Its process id.
        """
        prepared = self._warm(path)
        gc.freeze()  # collecting garbage would write to every page that points share
        parent, (reader, writer) = os.getpid(), os.pipe()
        process = os.fork()
        if process == 0:
            os.close(reader)
            self._be_point(path, log, parent, writer, prepared)
        os.close(writer)
        os.read(reader, 1)  # the process has its name, by which others find it, or has ended
        os.close(reader)
        return process

    @staticmethod
    def ended(process: int) -> int | None:
        """Return the exit code of a point, that of a signal below 0; None while it runs."""
        found, status = os.waitpid(process, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if found else None

    def _warm(self, path: Path) -> object:
        """Open the cohort of a point, and import its trackers, unless an earlier point did; return the cohort."""
        try:
            config = Job.read(path).config
        except UserError:  # the point says so
            return None
        if not self._tracks and _tracks_with_mlflow(config):
            from menvae.tracking.mlflow.store import silence_mlflow

            silence_mlflow()
            for module in _IMPORTED_BY_MLFLOW:
                importlib.import_module(module)
            self._tracks = True
        return self._cohorts.open(config)

    def _be_point(self, path: Path, log: Path, parent: int, is_named: int, prepared: object) -> NoReturn:
        """Become the process of a point, close the pipe ``is_named``, and end with the exit code of the point."""
        code = 1
        try:
            os.setpgid(0, 0)
            stop_with_parent()
            if os.getppid() != parent:  # it ended before the line above
                os._exit(1)
            for number in (*STOP_SIGNALS, signal.SIGCHLD):
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
            call_process(path.parent.name)
            _redirect(log)
            os.close(is_named)
            sys.argv = [str(lone.__file__), str(path)]  # environment.json shows the command
            self._threads.restore_original_limits()
            code = lone.run(path, prepared)
        except BaseException:  # noqa: BLE001 - a process of its own would print it too
            traceback.print_exc()
        finally:
            _end(code)


def _end(code: int) -> NoReturn:
    """End a forked process: what runs at an exit, without unloading all modules, and nothing of the callers."""
    try:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _redirect(log: Path) -> None:
    """Read nothing, and append all output to a file."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for source, target in ((nothing, 0), (file, 1), (file, 2)):
        os.dup2(source, target)
    os.close(nothing)
    os.close(file)


def _tracks_with_mlflow(config: Mapping[str, Any]) -> bool:
    """Return whether a run will use MLflow; its configuration has not been checked yet."""
    try:
        settings = validated(TrackingSettings, config["tracking"], "tracking")
    except (KeyError, UserError):  # the point says so
        return False
    return any(settings.trackers[key].get("name") == "mlflow" for key in settings.active)


class _Requests:
    """Lines on standard input: {"job": path, "log": path}."""

    def __init__(self) -> None:
        self._rest = b""
        self.are_over = False

    def read(self, seconds: float) -> list[dict[str, str]]:
        """Wait at most some seconds; return the requests that have arrived."""
        if self.are_over:
            select.select([], [], [], seconds)
            return []
        if not select.select([0], [], [], seconds)[0]:
            return []
        news = os.read(0, 1 << 16)
        self.are_over = not news
        *lines, self._rest = (self._rest + news).split(b"\n")
        return [json.loads(line) for line in lines]


def _answer(**content: object) -> None:
    with suppress(BrokenPipeError):  # the launching process has ended
        os.write(1, json.dumps(content).encode() + b"\n")


def serve() -> None:
    """Start the points that standard input names, and write to standard output when one has started and ended.

    A stop signal, and the end of the launching process, are passed on to the points; then this process ends with the
    last of them.
    """
    stopped: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.append(number)

    for number in STOP_SIGNALS:
        signal.signal(number, stop)
    stop_with_parent()
    warmed, requests, points = WarmedProcess(), _Requests(), set[int]()
    is_told = False
    while points or not (requests.are_over or stopped):
        for request in requests.read(_SECONDS_BETWEEN_LOOKS):
            if not stopped:
                process = warmed.start(Path(request["job"]), Path(request["log"]))
                points.add(process)
                _answer(job=request["job"], process=process)
        if stopped and not is_told:
            is_told = True
            for process in points:
                os.kill(process, signal.SIGTERM)
        for process in list(points):
            if (code := warmed.ended(process)) is not None:
                points.discard(process)
                _answer(process=process, code=code)


if __name__ == "__main__":
    serve()
