"""An output directory that was moved keeps its sweeps, runs and tracked runs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from machines import TWO_AT_A_TIME, Machine
from runs import TRACKED, finished_sweep_in_mlflow, menvae_sweep

from menvae.sweeps.sweep import Point, Submission, Sweep
from menvae.tracking.files import FilesTracker
from menvae.tracking.local import LocalLog
from menvae.tracking.tracker import TrackerContext, TrackingSettings

pytestmark = pytest.mark.usefixtures("forked_jobs")


@pytest.fixture
def machine(prepared_cache: Path, tmp_path: Path) -> Iterator[Machine]:
    with Machine.among(tmp_path, prepared_cache, TWO_AT_A_TIME) as machine:
        yield machine


def test_a_sweep_goes_on_where_it_was_moved(machine: Machine, tmp_path: Path) -> None:
    files = "+tracker@tracking.trackers.files=files"
    short = ("trainer.max_epochs=1", TRACKED, files)
    (machine.flags / "1").write_text("raise")
    machine.launch("loss.lambda_dcor=1,2", *short, code=1)
    before, moved = machine.output_dir, tmp_path / "elsewhere" / "outputs"
    moved.parent.mkdir()
    shutil.move(before, moved)
    machine.output_dir = moved
    assert machine.fates() == {"1": "failed", "2": "finished"}
    assert machine.statuses()["1"].reason == "ZeroDivisionError: a fault of the trouble term"

    (machine.flags / "1").unlink()
    assert "1 point: 1 failed; 1 to run" in menvae_sweep(moved, "retry", site=machine.site)
    assert not before.exists(), "nothing goes where it was"
    children = finished_sweep_in_mlflow(moved, 2)
    for child in children:
        artifacts = moved / "mlartifacts" / child.info.run_id / "artifacts"
        assert child.info.artifact_uri == artifacts.as_uri()
        assert (artifacts / "gates.json").is_file()
    rows = pd.read_csv(moved / "tracked" / "runs.csv")
    assert len(rows) == 3
    assert set(rows["status"]) == {"FINISHED"}
    assert all(Path(path).is_relative_to(moved) and Path(path).is_dir() for path in rows["run_dir"])


def test_the_log_of_a_job_that_ran_elsewhere(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "sweeps" / "a_sweep")
    for log in ("/old/outputs/sweeps/a_sweep/points/run_1/output.log", f"{sweep.path}/points/run_1/output.log"):
        assert sweep.log(Submission("local", "1", log)) == sweep.path / "points" / "run_1" / "output.log"
    assert sweep.log(Submission("mine", "1", "/var/log/queue/1.out")) == Path("/var/log/queue/1.out")


def test_the_parent_of_an_extension_moves_too(tmp_path: Path) -> None:
    sweep, point = Sweep(tmp_path / "sweeps" / "a_sweep"), Point(0, "run_1", ())
    trainer = {"extend": "/old/outputs/runs/parent", "max_epochs": 2}
    sweep.prepare(point, {"output_dir": "/old/outputs", "trainer": trainer})
    config = sweep.config(point)
    assert config == {
        "output_dir": str(tmp_path),
        "trainer": {"extend": f"{tmp_path}/runs/parent", "max_epochs": 2},
    }
    sweep.prepare(point, {"output_dir": "/old/outputs", "trainer": {"extend": "/others/runs/parent"}})
    assert sweep.config(point)["trainer"] == {"extend": "/others/runs/parent"}


def test_a_table_that_was_moved_with_its_runs_has_one_row_a_run(tmp_path: Path) -> None:
    for output_dir in (tmp_path / "before", tmp_path / "after"):
        for name in ("a", "b"):
            run_dir = output_dir / "runs" / name
            run_dir.mkdir(parents=True, exist_ok=True)
            context = TrackerContext(settings=TrackingSettings(), output_dir=output_dir, run_dir=run_dir, run_name=name)
            if name == "a" or output_dir.name == "before":  # b is not tracked again
                FilesTracker(context).start({"seed": 1}, {}, LocalLog(run_dir))
        if output_dir.name == "before":
            shutil.move(output_dir, tmp_path / "after")
    rows = pd.read_csv(tmp_path / "after" / "tracked" / "runs.csv", index_col="name")
    assert rows["run_dir"].to_dict() == {name: str(tmp_path / "after" / "runs" / name) for name in ("a", "b")}
