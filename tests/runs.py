"""Runs of the real command on a tiny phantom cohort, for tests that need a whole run."""

from __future__ import annotations

import atexit
import importlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from forking import fork_jobs

from menvae.console import logs

_UNDRAWN = tuple(
    f"+pictures.parts.{name}=null"
    for name in (
        "interventions",
        "calibration",
        "latent_scatter",
        "leak_matrix",
        "regression",
        "schedule",
        "swaps",
        "target_correlation",
        "training_curves",
        "traversals",
        "walks",
    )
)
TINY = (
    "data.num_subjects=12",
    "data.val_fraction=0.4",
    "data.test_fraction=0.0",
    "data.roi_size=[16,16,16]",
    "data.spacing_mm=[10,10,10]",
    "encoder.base_filters=8",
    "model.z_dim=16",
    "model.partitions={vol:4,loc:3,shape:4}",
    "trainer.batch_size=4",
    "trainer.max_epochs=3",
    "pictures.every_epochs=100",
    "pictures.num_subjects=0",
    "tracking.enabled=false",
    *_UNDRAWN,
)
"""Shrunk in size, not in structure; MLflow and pictures, half of such a run, are for the tests that look at them."""

TRACKED = "tracking.enabled=true"
DRAWN = ("pictures.num_subjects=1", *(f"~{override.partition('=')[0]}" for override in _UNDRAWN))

_IMPORTED_ONCE = [
    "jinja2",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.tracking",
    "nibabel",
    "optuna",
    "rich.progress",
    "scipy.ndimage",
    "skimage.measure",
    "warm",
]
_SERVER = forkserver.ForkServer()
"""Beside the one of this process, which has the modules of menvae that prepare data as soon as a test prepares some."""
_SERVER.set_forkserver_preload(_IMPORTED_ONCE)
jobs_fork = False
"""Whether the jobs of sweeps fork as their commands do; see the fixture ``forked_jobs``."""


def command(output_dir: Path, *overrides: str) -> list[str]:
    """Return the command line of ``menvae-train`` for a tiny run.

    ``~key`` leaves a key of `TINY` out, and another encoder its keys of the encoder.
    """
    program = "from menvae.apps.train import main; main()"
    flags = [override for override in overrides if override.startswith("-")]
    values = [override for override in overrides if not override.startswith("-")]
    if any(value.startswith(("encoder=", "experiment=")) for value in values):
        values.append("~encoder.base_filters")
    left_out = {f"~{key.partition('=')[0]}" for key in TINY} & set(values)
    tiny = [override for override in TINY if f"~{override.partition('=')[0]}" not in left_out]
    values = [value for value in values if value not in left_out]
    return [sys.executable, "-c", program, *flags, *tiny, f"output_dir={output_dir}", *values]


def environment(threads: int = 1, site: Path | None = None) -> dict[str, str]:
    """Return the environment of a run with a fixed number of threads; ``site`` is where plugins are."""
    paths = [str(site)] if site else []
    paths += [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    plugins = {"PYTHONPATH": os.pathsep.join(paths)} if paths else {}
    return {**os.environ, "OMP_NUM_THREADS": str(threads), **plugins}


def train(
    output_dir: Path, *overrides: str, code: int = 0, site: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run to the end and check the exit code."""
    return _run("train", command(output_dir, *overrides)[3:], environment(site=site), code)


def interrupt(output_dir: Path, *overrides: str, after: str, number: signal.Signals, site: Path | None = None) -> str:
    """Start a run, send a signal once its log has a text, check the exit code, and return what it logs afterwards."""
    process = start(output_dir, *overrides, site=site)
    process.read_until(after)
    process.send_signal(number)
    rest = process.output.read()
    assert process.wait(timeout=60) == 75, rest
    return rest


def menvae_sweep(output_dir: Path, verb: str, *arguments: str, code: int = 0, site: Path | None = None) -> str:
    """Run ``menvae-sweep``, check the exit code, and return what it says."""
    environ = {**environment(site=site), "COLUMNS": "200"}
    result = _run("sweep", [verb, f"output_dir={output_dir}", *arguments], environ, code)
    return str(result.stdout + result.stderr)


def menvae_evaluate(output_dir: Path, *arguments: str, code: int = 0) -> str:
    """Run ``menvae-evaluate``, check the exit code, and return what it says."""
    environ = {**environment(), "COLUMNS": "200"}
    result = _run("evaluate", [f"output_dir={output_dir}", *arguments], environ, code)
    return str(result.stdout + result.stderr)


class Started:
    """A command in a process of its own, which forks from a server that has imported what it needs.

    Importing that takes longer than a tiny run; what those modules read when they are imported is the server's. Plugins
    it imports itself. Its signals and its exit code are those of any process. Commands that import everything
    themselves are those of `command`, and the jobs of sweeps without the fixture ``forked_jobs``.

    Attributes:
        output: what it writes to stderr, and to stdout if both were asked for.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        environ: Mapping[str, str],
        *,
        both: bool = False,
        group: bool = False,
    ) -> None:
        """Start ``menvae-<name>``.

        Args:
            name: of the command.
            arguments: of the command.
            environ: its whole environment.
            both: read stdout too, which is dropped otherwise.
            group: start it as the head of a session, as a terminal does: what Ctrl-C reaches is its group.
        """
        reader, writer = multiprocessing.Pipe(duplex=False)
        self._process = _forked(name, arguments, environ, writer if both else None, writer, group)
        atexit.register(self.kill)  # else the end of the tests waits for it
        writer.close()
        self.output = os.fdopen(os.dup(reader.fileno()), errors="replace")
        reader.close()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Return the exit code, that of a signal below 0, or None while it runs."""
        return self._process.exitcode

    def read_until(self, text: str) -> None:
        """Read the output up to a line that has a text, or to its end."""
        for line in self.output:
            if text in line:
                return

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; raises `subprocess.TimeoutExpired`."""
        self._process.join(timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired("menvae", timeout or 0.0)
        return code

    def ended(self, code: int, timeout: float = 600.0) -> str:
        """Return the output that has not been read, and check the exit code."""
        overdue = threading.Timer(timeout, self.kill)
        overdue.start()
        output = self.output.read()
        overdue.cancel()
        assert self.wait(timeout=60) == code, output[-4000:]
        return output

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL, unless it has ended."""
        self.send_signal(signal.SIGKILL)


def start(
    output_dir: Path, *overrides: str, site: Path | None = None, both: bool = False, group: bool = False
) -> Started:
    """Start ``menvae-train`` for a tiny run, and do not wait; see `Started`."""
    return Started("train", command(output_dir, *overrides)[3:], environment(site=site), both=both, group=group)


def _run(name: str, arguments: list[str], environ: dict[str, str], code: int) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, as `Started` does, and check its exit code."""
    with tempfile.TemporaryDirectory() as folder:
        streams = (Path(folder) / "stdout", Path(folder) / "stderr")
        process = _forked(name, arguments, environ, *streams)
        process.join()
        output, errors = (stream.read_text(errors="replace") for stream in streams)
    assert process.exitcode == code, errors[-4000:]
    return subprocess.CompletedProcess([name, *arguments], code, output, errors)


def _forked(
    name: str,
    arguments: Sequence[str],
    environ: Mapping[str, str],
    stdout: Path | Connection | None,
    stderr: Path | Connection | None,
    group: bool = False,
) -> BaseProcess:
    return fork(_be, name, [*arguments], dict(environ), stdout, stderr, group, jobs_fork)


def fork(function: Callable[..., None], *arguments: object) -> BaseProcess:
    """Start a function in a process that forks from the server; arguments are pickled."""
    process = multiprocessing.get_context("forkserver").Process(target=function, args=arguments)
    paths = [*filter(None, [os.environ.get("PYTHONPATH")]), str(Path(__file__).parent)]  # the server imports `warm`
    with (
        mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(paths)),
        mock.patch.object(forkserver, "connect_to_new_process", _SERVER.connect_to_new_process),
    ):
        process.start()
    return process


def _be(
    name: str,
    arguments: list[str],
    environ: dict[str, str],
    stdout: Path | Connection | None,
    stderr: Path | Connection | None,
    group: bool,
    with_jobs: bool,
) -> None:
    """Become the command: its streams, its environment, its arguments."""
    if group:
        os.setsid()
    become(environ, stdout, stderr)
    if "COLUMNS" in environ:  # which rich reads when a console is made
        logs.console.width = int(environ["COLUMNS"])
    sys.argv = [f"menvae-{name}", *arguments]
    if with_jobs:
        fork_jobs()
    importlib.import_module(f"menvae.apps.{name}").main()


def become(environ: Mapping[str, str], stdout: Path | Connection | None, stderr: Path | Connection | None) -> None:
    """Give this process the streams and the environment of one that has started by itself."""
    for number, stream in ((1, stdout), (2, stderr)):
        if isinstance(stream, Connection):
            os.dup2(stream.fileno(), number)
        else:
            os.dup2(os.open(stream or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    for stream in (stdout, stderr):
        if isinstance(stream, Connection):  # whose other end waits until no process has it
            stream.close()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environ)
    torch.set_num_threads(int(environ["OMP_NUM_THREADS"]))  # the server has read its own
    sys.path[:0] = [path for path in environ.get("PYTHONPATH", "").split(os.pathsep) if path]


def only_run(output_dir: Path) -> Path:
    """Return the one run directory."""
    (run,) = (output_dir / "runs").iterdir()
    return run


def gates(run: Path) -> dict[str, Any]:
    """Return gates.json by gate name."""
    table = json.loads((run / "gates.json").read_text())
    return {gate["name"]: gate for gate in table["gates"]}


def mlflow_points(output_dir: Path) -> dict[str, set[tuple[str, int, float]]]:
    """Return {run id: {(key, step, value)}} of everything in the store; fails on a duplicate (key, step)."""
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{output_dir / 'mlflow.db'}")
    found = {}
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id]):
            points = [
                (key, point.step, point.value)
                for key in run.data.metrics
                for point in client.get_metric_history(run.info.run_id, key)
            ]
            assert len({(key, step) for key, step, _ in points}) == len(points), "a metric was logged twice"
            found[run.info.run_id] = set(points)
    return found


def finished_sweep_in_mlflow(output_dir: Path, num_points: int) -> list[Any]:
    """Check that there is one parent with a child a point, all finished, and return the children."""
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{output_dir / 'mlflow.db'}")
    (experiment,) = [found for found in client.search_experiments() if found.name == "menvae"]
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if run.data.tags.get("menvae.kind") == "sweep"]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == num_points == len(runs) - 1
    assert {run.info.status for run in runs} == {"FINISHED"}
    return children
