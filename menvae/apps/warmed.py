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
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import torch
from threadpoolctl import threadpool_limits

from menvae.apps import job as lone
from menvae.errors import ExitCode, UserError
from menvae.interruption import STOP_SIGNALS, call_process, stop_with_parent
from menvae.registry import validated
from menvae.runs.environment import code_hash
from menvae.runs.job import Job, log_signal, time_has_run_out
from menvae.runs.opened import OpenedCohorts
from menvae.tracking.tracker import TrackingSettings

_IMPORTED_LATE = (
    "menvae.presentation.figures",
    "menvae.runs.facts",
    "menvae.runs.gates_table",
    "menvae.runs.report",
    "menvae.runs.train",
    "scipy.stats",
)
"""What a run imports only when it needs it."""

_IMPORTED_BY_MLFLOW = ("mlflow.entities", "mlflow.store.tracking.sqlalchemy_store", "mlflow.tracking")
_WITHOUT_CONTEXT = "PYTORCH_NVML_BASED_CUDA_CHECK"
"""Environment variable with which torch looks for GPUs without using CUDA, which a fork could not use again."""

_SECONDS_BETWEEN_LOOKS = 0.05


class WarmedProcess:
    """This process, as the parent of points."""

    def __init__(self, *, announces: bool = False) -> None:
        """Import what runs need, and stay with one thread.

        Args:
            announces: whether points write to standard output when they start; each does so itself, before it begins.
                If this process is killed just then, the launching process still learns which points it has started.
        """
        self._announces = announces
        self._is_asked = _WITHOUT_CONTEXT in os.environ
        os.environ.setdefault(_WITHOUT_CONTEXT, "1")
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
        with warnings.catch_warnings():  # Python 3.12 warns of threads of BLAS and allocators, which prepare for forks
            warnings.simplefilter("ignore", DeprecationWarning)
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
            for number in (*STOP_SIGNALS, signal.SIGCHLD):
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
            stop_with_parent()
            if os.getppid() != parent:  # it ended before the line above
                os._exit(1)
            call_process(path.parent.name)
            if self._announces:
                _answer(job=str(path), process=os.getpid())
            _redirect(log)
            if not self._is_asked:
                del os.environ[_WITHOUT_CONTEXT]
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


def run_slurm_points(paths: Sequence[str], max_num_timeout: int) -> None:
    """Run the points of one SLURM job at the same time; queue the job again if time has run out for any of them.

    A job that has been queued again runs only the points that were interrupted.

    Args:
        paths: the job files.
        max_num_timeout: how often the job may be queued again.

    Raises:
        SystemExit: with a nonzero exit code of a point, so that SLURM marks the job as failed.
    """
    import submitit

    jobs = {Path(path): Job.read(Path(path)) for path in paths}
    codes: list[int] = []
    with _stopped_by() as stopped:
        warmed, points, is_told = WarmedProcess(), dict[int, Path](), False
        for path, job in jobs.items():
            if job.outcome().get("exit_code", ExitCode.INTERRUPTED) == ExitCode.INTERRUPTED and not stopped:
                points[warmed.start(path, path.with_name("output.log"))] = path
        while points:
            if stopped and not is_told:
                is_told = True
                _signal(points, stopped[0])
            ended = {process: code for process in points if (code := warmed.ended(process)) is not None}
            codes += [_left(points.pop(process), code) for process, code in ended.items()]
            time.sleep(_SECONDS_BETWEEN_LOOKS)
    by_slurm = [signal.Signals(number).name for number in stopped]
    reasons = [str(job.outcome().get("stopped_by", "")) for job in jobs.values()]
    if any(map(time_has_run_out, [*by_slurm, *reasons])):
        lone.requeue(submitit.JobEnvironment().job_id, max_num_timeout)
    if code := max([*codes, ExitCode.INTERRUPTED if stopped else 0], default=0):
        sys.exit(code)


def _left(path: Path, code: int) -> int:
    """Return the exit code of a point; of one that a signal ended, say so in its log and its ``outcome.json``.

    A stop signal ends a point that has just begun and does not handle it yet; that point is interrupted too.
    """
    if code >= 0:
        return code
    log_signal(code, path.with_name("output.log"))
    if -code in STOP_SIGNALS:
        Job.read(path).leave_outcome(ExitCode.INTERRUPTED, signal.Signals(-code).name)
        return ExitCode.INTERRUPTED
    Job.read(path).leave_outcome(code)
    return -code


@contextmanager
def _stopped_by() -> Iterator[list[int]]:
    """Provide the list of the stop signals that arrive while the block runs."""
    stopped: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.append(number)

    before = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _signal(processes: Iterable[int], number: int) -> None:
    """Send a signal to processes of points that have not been waited for."""
    for process in processes:
        os.kill(process, number)


def serve() -> None:
    """Start the points that standard input names; standard output tells when one has started and ended.

    A stop signal, and the end of the launching process, are passed on to the points; then this process ends with the
    last of them.
    """
    with _stopped_by() as stopped:
        stop_with_parent()
        warmed, requests, points, is_told = WarmedProcess(announces=True), _Requests(), dict[int, str](), False
        while points or not (requests.are_over or stopped):
            for request in requests.read(_SECONDS_BETWEEN_LOOKS):
                if not stopped:
                    process = warmed.start(Path(request["job"]), Path(request["log"]))
                    points[process] = request["job"]
            if stopped and not is_told:
                is_told = True
                _signal(points, signal.SIGTERM)
            for process in list(points):
                if (code := warmed.ended(process)) is not None:
                    _answer(job=points.pop(process), process=process, code=code)


if __name__ == "__main__":
    serve()
    os._exit(0)  # unloading torch takes half as long as importing it
