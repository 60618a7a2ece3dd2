"""Runs of nodes without a network, as menvae leaves them, without training."""

from __future__ import annotations

import json
from pathlib import Path

from stores import gates_of

from menvae.runs.delivery import hand_over
from menvae.runs.directory import RUNS, RunDirectory, State
from menvae.sweeps.sweep import SWEEPS, Point, Sweep
from menvae.tracking.local import LocalLog
from menvae.tracking.tracker import DatasetInput, ParentRun, TrackerContext, TrackingSettings
from menvae.tracking.trackers import Trackers

OFFLINE = TrackingSettings(offline=True)
VALUES = {"vol_r2": 0.75, "max_dcor": 0.125}
PARAMS = {"seed": 1, "loss.lambda_dcor": 0.5, "data.modalities": ["t1c", "t1n"], "data.root": None}
DATASET = DatasetInput("phantom", "0" * 16, "/data", "training")


def write_run(
    output_dir: Path,
    name: str,
    *,
    state: State = "finished",
    num_epochs: int = 3,
    sweep: Sweep | None = None,
    settings: TrackingSettings = OFFLINE,
) -> Path:
    """Write a run, with the state of one that a killed process leaves for ``running``; return its directory."""
    directory = RunDirectory(output_dir / RUNS / name)
    run_dir = directory.path
    directory.set_status("running")
    parent = None if sweep is None else ParentRun(sweep.path, sweep.name)
    trackers = Trackers.of(
        TrackerContext(settings=settings, output_dir=output_dir, run_dir=run_dir, run_name=name, parent=parent)
    )
    log = LocalLog(run_dir)
    trackers.start(PARAMS, {"menvae.run": name}, log, [DATASET])
    for epoch in range(1, num_epochs + 1):
        metrics: dict[str, float | None] = {"val_epoch/loss": 1 / epoch, "sem/vol_r2": None if epoch == 2 else 0.5}
        log.append(epoch, metrics, {"time/train_s": 0.25})
        trackers.log(epoch, metrics, {"time/train_s": 0.25})
    (run_dir / "config.yaml").write_text("seed: 1\n")
    if state == "finished":
        (run_dir / "gates.json").write_text(json.dumps(gates_of(VALUES)))
        directory.checkpoints.mkdir()
        (directory.checkpoints / "best.ckpt").write_bytes(name.encode())
        status = {"state": state, "epochs": num_epochs, "gates_passed": False}
        hand_over(trackers, settings, directory, status)
        directory.set_status(**status)
    elif state != "running":
        directory.set_status(state, reason="made up")
    directory.release()
    return run_dir


def write_sweep(output_dir: Path, name: str, runs: list[str], settings: TrackingSettings = OFFLINE) -> Sweep:
    """Write a sweep whose points are runs that are finished; return it."""
    sweep = Sweep(output_dir / SWEEPS / name)
    sweep.describe(["seed=1,2"], [])
    context = TrackerContext(settings=settings, output_dir=output_dir, run_dir=sweep.path, run_name=name)
    tags = {**ParentRun(sweep.path, name).tags, "menvae.sweep.seed": "1,2"}
    Trackers.of(context).start({}, tags, LocalLog(sweep.path))
    for number, run in enumerate(runs):
        sweep.keep(Point(number, run, (f"seed={number}",)))
        write_run(output_dir, run, sweep=sweep, settings=settings)
    return sweep


def expected(run_dir: Path) -> set[tuple[str, int, float]]:
    """Return (key, step, value) of all that trackers should have of a finished run."""
    log = LocalLog(run_dir)
    points = {
        (key, int(row["epoch"] or 0), value)
        for row in log.metrics() + log.timings()
        for key, value in row.items()
        if key != "epoch" and value is not None
    }
    last = max(step for _, step, _ in points)
    return points | {(f"gate/{key}", last, value) for key, value in VALUES.items()} | {("gate/passed", last, 0.0)}
