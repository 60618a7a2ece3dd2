"""Runs of the real command on a tiny phantom cohort, for tests that need a whole run."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

_UNDRAWN = tuple(
    f"+pictures.parts.{name}=null"
    for name in (
        "latent_scatter",
        "leak_matrix",
        "regression",
        "schedule",
        "target_correlation",
        "training_curves",
        "traversals",
    )
)
TINY = (
    "data.num_subjects=12",
    "data.val_fraction=0.4",
    "data.test_fraction=0.0",
    "data.roi_size=[16,16,16]",
    "data.spacing_mm=[10,10,10]",
    "model.z_dim=16",
    "model.partitions={vol:4,loc:3,shape:4}",
    "trainer.batch_size=4",
    "trainer.max_epochs=3",
    "pictures.every_epochs=100",
    "pictures.num_subjects=1",
    "tracking.enabled=false",
    *_UNDRAWN,
)
"""Shrunk in size, not in structure; MLflow and pictures, half of such a run, are for the tests that look at them."""

TRACKED = "tracking.enabled=true"
DRAWN = tuple(f"~{override.partition('=')[0]}" for override in _UNDRAWN)

_OF_OTHERS = [
    "matplotlib.backends.backend_agg",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.tracking",
    "rich.progress",
    "skimage.measure",
    "torch._dynamo",
]


def command(output_dir: Path, *overrides: str) -> list[str]:
    """Return the command line of ``menvae-train`` for a tiny run; ``~key`` leaves a key of `TINY` out."""
    program = "from menvae.apps.train import main; main()"
    flags = [override for override in overrides if override.startswith("-")]
    values = [override for override in overrides if not override.startswith("-")]
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


def interrupt(output_dir: Path, *overrides: str, after: str, number: signal.Signals) -> str:
    """Start a run, send a signal once its log has a text, check the exit code, and return what it logs afterwards."""
    process = subprocess.Popen(command(output_dir, *overrides), env=environment(), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if after in line:
            break
    process.send_signal(number)
    rest = process.stderr.read()
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


def _run(name: str, arguments: list[str], environ: dict[str, str], code: int) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, and check its exit code.

    The process forks from a server that has imported what others wrote, which takes longer than a tiny run; what
    those modules read when they are imported is the server's. The modules of menvae and of plugins it imports itself.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_OF_OTHERS)
    with tempfile.TemporaryDirectory() as folder:
        streams = (Path(folder) / "stdout", Path(folder) / "stderr")
        process = context.Process(target=_be, args=(name, arguments, environ, *streams))
        process.start()
        process.join()
        output, errors = (stream.read_text(errors="replace") for stream in streams)
    assert process.exitcode == code, errors[-4000:]
    return subprocess.CompletedProcess([name, *arguments], code, output, errors)


def _be(name: str, arguments: list[str], environ: dict[str, str], stdout: Path, stderr: Path) -> None:
    for number, path in ((1, stdout), (2, stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(environ)
    torch.set_num_threads(int(environ["OMP_NUM_THREADS"]))  # the server has read its own
    sys.path[:0] = [path for path in environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.argv = [f"menvae-{name}", *arguments]
    importlib.import_module(f"menvae.apps.{name}").main()


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
