"""A small run with checkpoints, to be killed. Run as a script: MLflow is imported once, then every run is a fork.

victim.py kill DIRECTORY SEED   kill -9 the run while it creates the store, right after its n-th write to MLflow, and at
                                random moments; then let it end
victim.py race DIRECTORY COUNT [URI]
                                as many runs at once, all of one sweep; the store is not there yet, or is that of a
                                server: then each waits after five epochs for a file DIRECTORY/go
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from menvae.tracking.local import LocalLog
from menvae.tracking.mlflow.tracker import MLflowTracker
from menvae.tracking.tracker import ParentRun, TrackerContext, TrackingSettings

NUM_EPOCHS = 12
PARAMS = {"seed": 1, "loss.lambda_dcor": 0.5, "data.modalities": ["t1", "flair"], "note": "x" * 5000}


def metrics_of(epoch: int) -> dict[str, float | None]:
    generator = random.Random(epoch)
    metrics: dict[str, float | None] = {f"val_epoch/term_{index}": generator.gauss(0, 1) for index in range(20)}
    metrics["sem/vol_r2"] = None if epoch % 3 == 0 else 1 - 1 / epoch
    metrics["diag/grad_norm"] = float("nan") if epoch == 2 else epoch / 3
    return metrics


def train(
    output_dir: Path,
    run_name: str,
    seconds_per_epoch: float,
    *,
    wait_for_store: bool = False,
    parent: ParentRun | None = None,
    uri: str | None = None,
) -> str:
    """Go on from the last checkpoint (every second epoch has one) to the end; return the MLflow run id."""
    settings = TrackingSettings() if uri is None else TrackingSettings(uri=uri, experiment="crowd")
    run_dir = output_dir / "runs" / run_name
    run_dir.mkdir(parents=True, exist_ok=True)
    checkpoint = run_dir / "last.ckpt"
    done = int(checkpoint.read_text()) if checkpoint.exists() else 0
    log = LocalLog(run_dir)
    log.rewind(done)
    tracker = MLflowTracker(
        TrackerContext(settings=settings, output_dir=output_dir, run_dir=run_dir, run_name=run_name, parent=parent)
    )
    tracker.start(PARAMS, {"host": "here"}, log)
    deadline = time.monotonic() + 30
    while wait_for_store and tracker.run_id is None and time.monotonic() < deadline:
        time.sleep(0.01)
    for epoch in range(done + 1, NUM_EPOCHS + 1):
        while uri is not None and epoch == 6 and not (output_dir / "go").exists():
            time.sleep(0.05)
        timings = {"time/epoch_seconds": time.monotonic()}
        log.append(epoch, metrics_of(epoch), timings)
        tracker.log(epoch, metrics_of(epoch), timings)
        if epoch % 2 == 0:
            partial = checkpoint.with_suffix(".part")
            partial.write_text(str(epoch))
            partial.replace(checkpoint)
        time.sleep(seconds_per_epoch)
    tracker.log_artifacts([log.metrics_path])
    assert tracker.finish("FINISHED", {"verdict": "done"}, patience_s=None if uri is None else 240.0)
    assert tracker.run_id is not None
    return tracker.run_id


def fork(
    output_dir: Path,
    run_name: str,
    seconds_per_epoch: float,
    killed_at_write: int = 0,
    parent: ParentRun | None = None,
    uri: str | None = None,
) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if killed_at_write:
                die_after_write(killed_at_write)
            waits = killed_at_write > 0
            train(output_dir, run_name, seconds_per_epoch, wait_for_store=waits, parent=parent, uri=uri)
            code = 0
        finally:
            if code:
                sys.excepthook(*sys.exc_info())
            os._exit(code)
    return pid


def die_after_write(number: int) -> None:
    from mlflow.tracking import MlflowClient

    num_writes = 0

    def deadly(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **arguments: Any) -> Any:
            nonlocal num_writes
            result = method(*args, **arguments)
            num_writes += 1
            if num_writes == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    for name in ("create_experiment", "create_run", "update_run", "log_batch", "log_artifact", "set_terminated"):
        setattr(MlflowClient, name, deadly(getattr(MlflowClient, name)))


def largest_file(directory: Path) -> int:
    sizes = [0]
    for path in directory.glob("mlflow.db*"):
        with contextlib.suppress(FileNotFoundError):  # journals come and go
            sizes.append(path.stat().st_size)
    return max(sizes)


def main() -> None:
    command, directory, number, uri = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), next(iter(sys.argv[4:]), None)
    os.environ["MLFLOW_LOGGING_LEVEL"] = "CRITICAL"
    if uri is not None:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
    import mlflow.store.tracking.sqlalchemy_store
    import mlflow.tracking  # noqa: F401

    if command == "race":
        parent = ParentRun(directory / "sweeps" / "a_sweep", "a_sweep")
        pids = [fork(directory, f"run_{index:02d}", 0.01, parent=parent, uri=uri) for index in range(number)]
        sys.exit(any(os.waitpid(pid, 0)[1] for pid in pids))
    generator = random.Random(number)
    num_killed = 0
    for num_bytes in (60_000, 120_000):  # in the middle of creating the store, whatever the file is called
        pid = fork(directory, "early", 1.0)
        while largest_file(directory) < num_bytes:
            time.sleep(0.001)
        os.kill(pid, signal.SIGKILL)
        num_killed += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    for killed_at_write in (1, 1, 1, 2, 2, 3, 4, 5, 6):
        pid = fork(directory, "run", 0.03, killed_at_write)
        num_killed += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    for _ in range(3):
        pid = fork(directory, "run", 0.1)
        time.sleep(generator.uniform(0.1, 1.0))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    sys.stdout.write(f"{num_killed}\n")
    sys.exit(any(os.waitpid(fork(directory, name, 0.0), 0)[1] for name in ("early", "run")))


if __name__ == "__main__":
    main()
