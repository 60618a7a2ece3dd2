"""Runs are read from real SQLite stores, filled through MLflow's client; what should be there is asked with sqlite3."""

from __future__ import annotations

import gc
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import traceback
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from stores import PARAMS, TARGETS, MadeRun, fill

from menvae.comparison.tracked_runs import RunStore, TrackedRun
from menvae.errors import UserError
from menvae.tracking.tracker import TrackingSettings

VALUES: dict[str, float | None] = {**dict.fromkeys(TARGETS, 0.1 + 0.7 / 3), "max_dcor": None}


def read(output_dir: Path, sweep: str | None = None, **tracking: Any) -> tuple[list[TrackedRun], list[str]]:
    return RunStore.open(TrackingSettings(**tracking), output_dir).runs(sweep)


def test_a_run_is_read_as_it_was_logged(output_dir: Path) -> None:
    (run_id,) = fill(output_dir, [MadeRun({"seed": 3}, VALUES, name="one")])
    (run,), notes = read(output_dir)
    assert notes == []
    assert (run.run_id, run.name, run.state, run.seed) == (run_id, "one", "finished", "3")
    assert (run.data_hash, run.targets_hash, run.git_commit) == ("d" * 32, "t" * 16, "c" * 40)
    assert list(run.params) == list(PARAMS), "in the order of the configuration"
    assert run.params["loss.lambda_dcor"] == "5.0"
    assert run.params["model.partitions.residual"] == "null"
    with closing(sqlite3.connect(output_dir / "mlflow.db")) as connection:
        stored = dict(connection.execute("select key, value from latest_metrics where key like 'gate/%'").fetchall())
    assert {f"gate/{gate.name}": gate.value for gate in run.gates.values() if gate.value is not None} == {
        key: value for key, value in stored.items() if key != "gate/passed"
    }
    assert run.gates["max_dcor"].value is None
    assert run.gates["max_dcor"].reason == "made up without"
    assert (run.gates["vol_r2"].comparison, run.gates["vol_r2"].target, run.gates["vol_r2"].passed) == (
        ">",
        0.85,
        False,
    )


def test_the_collector_is_off_only_while_mlflow_makes_a_page(output_dir: Path) -> None:
    fill(output_dir, [MadeRun({"seed": seed}, VALUES, name=f"run {seed}") for seed in range(3)])
    store = RunStore.open(TrackingSettings(), output_dir)
    found: list[str] = []
    gc.callbacks.append(lambda phase, _: found.append(phase + "".join(traceback.format_stack())))
    before, was_on = gc.get_threshold(), gc.isenabled()
    gc.enable()  # a refused menvae-train leaves it off
    gc.set_threshold(50, *before[1:])
    try:
        assert len(store.runs()[0]) == 3
        assert gc.isenabled()
    finally:
        gc.set_threshold(*before)
        if not was_on:
            gc.disable()
        gc.callbacks.pop()
    assert found, "it runs between pages"
    assert not [stack for stack in found if "search_runs" in stack]


def test_only_finished_runs_and_no_parents(output_dir: Path) -> None:
    runs = [
        MadeRun(values=VALUES, name="good"),
        MadeRun(values=VALUES, name="flat", tags={"menvae.state": "collapsed"}),
        MadeRun(values=VALUES, name="cut", tags={"menvae.state": "pruned"}),
        MadeRun(values=VALUES, name="died", status="FAILED"),
        MadeRun(values=VALUES, name="died too", status="FAILED"),
        MadeRun(values=VALUES, name="busy", status="RUNNING"),
        MadeRun(values=VALUES, name="shot", status="KILLED"),
        MadeRun(values=VALUES, name="odd", has_gates=False),
        MadeRun(values=VALUES, name="parent", tags={"menvae.kind": "sweep"}),
    ]
    fill(output_dir, runs)
    found, notes = read(output_dir)
    assert [(run.name, run.state) for run in found] == [("good", "finished"), ("flat", "collapsed")]
    assert notes == [
        "Not compared: 2 failed (died, died too); 1 killed (shot); 1 pruned (cut); 1 running (busy); "
        "1 without a readable gates.json (odd)."
    ]


def test_only_the_points_of_a_sweep(output_dir: Path) -> None:
    fill(output_dir, [MadeRun(values=VALUES, name=name, tags={"menvae.sweep": name[0]}) for name in ("a1", "a2", "b1")])
    assert [run.name for run in read(output_dir, sweep="a")[0]] == ["a1", "a2"]
    with pytest.raises(UserError, match=r"sweep.name: 'c' has no run in .*known: a, b"):
        read(output_dir, sweep="c")


def test_more_runs_than_a_page(output_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("menvae.tracking.mlflow.reading._PAGE_SIZE", 2)
    fill(output_dir, [MadeRun(values=VALUES, name=f"run {number}") for number in range(5)])
    assert [run.name for run in read(output_dir)[0]] == [f"run {number}" for number in range(5)]


def test_gates_that_are_not_those_of_the_metrics_are_named(output_dir: Path) -> None:
    fill(output_dir, [MadeRun(values=VALUES, name="edited")])
    (path,) = output_dir.glob("mlartifacts/*/artifacts/gates.json")
    table = json.loads(path.read_text())
    table["gates"][0]["value"] = 0.99
    path.write_text(json.dumps(table))
    (run,), notes = read(output_dir)
    assert run.gates["vol_r2"].value == 0.99
    assert notes == ["edited: MLflow metrics and gates.json differ in vol_r2; gates.json is shown."]


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"gates": [{"name": "vol_r2"}]}', '{"gates": 3}', '{"gates": []}']
)
def test_damaged_gates_leave_a_run_out(output_dir: Path, content: str) -> None:
    fill(output_dir, [MadeRun(values=VALUES, name="good"), MadeRun(values=VALUES, name="bad")])
    bad = RunStore.open(TrackingSettings(), output_dir).runs()[0][1]
    path = RunStore.open(TrackingSettings(), output_dir).local_artifact(bad, "gates.json")
    assert path is not None
    path.write_text(content)
    found, notes = read(output_dir)
    assert [run.name for run in found] == ["good"]
    assert notes == ["Not compared: 1 without a readable gates.json (bad)."]


def test_nan_is_no_value(output_dir: Path) -> None:
    fill(output_dir, [MadeRun(values=VALUES)])
    (path,) = output_dir.glob("mlartifacts/*/artifacts/gates.json")
    path.write_text(path.read_text().replace("null", "NaN"))
    assert read(output_dir)[0][0].gates["max_dcor"].value is None


def test_a_store_that_was_moved_falls_back_on_the_run_directories(output_dir: Path, tmp_path: Path) -> None:
    fill(output_dir, [MadeRun(values=VALUES, name="here"), MadeRun(values=VALUES, name="gone")])
    moved = tmp_path / "moved"
    (moved / "runs" / "here").mkdir(parents=True)
    shutil.copy(next(output_dir.glob("mlartifacts/*/artifacts/gates.json")), moved / "runs" / "here")
    shutil.move(output_dir / "mlflow.db", moved)
    shutil.rmtree(output_dir)
    found, notes = read(moved)
    assert [run.name for run in found] == ["here"]
    assert notes == ["Not compared: 1 without a readable gates.json (gone)."]


# --- what is not there ------------------------------------------------------------------------------------------------


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"output_dir: tracking store '.*mlflow\.db' does not exist"):
        read(tmp_path)
    with pytest.raises(UserError, match=r"tracking\.uri: tracking store '.*' does not exist"):
        read(tmp_path, uri=f"sqlite:///{tmp_path / 'other.db'}")
    assert list(tmp_path.iterdir()) == [], "nothing is created"


def test_runs_that_are_not_sent_yet_are_named(output_dir: Path, tmp_path: Path) -> None:
    """Of runs trained offline, those that ended and that this store would get count; the others are left alone."""
    facts = {"uri": None, "sweep": "mine", "trackers": {"mlflow": {"name": "mlflow"}}}
    for name, state, experiment in (
        ("ended", "finished", "other"),
        ("elsewhere", "finished", "another"),
        ("running", "running", "other"),
        ("here", "finished", "other"),
    ):
        for folder in (tmp_path / "offline" / "runs" / name, output_dir / "runs" / name):
            folder.mkdir(parents=True)
            content = {**facts, "params": {}, "tags": {}, "datasets": [], "experiment": experiment}
            (folder / "tracking.json").write_text(json.dumps(content))
            (folder / "status.json").write_text(json.dumps({"state": state, "tracked": False, "trackers": []}))
    offline = tmp_path / "offline"
    with pytest.raises(UserError) as raised:
        read(offline, experiment="other")
    assert str(raised.value) == (
        f"2 runs in '{offline}' (ended, here) are not sent yet: menvae-sweep sync output_dir={offline}"
    )
    fill(output_dir, [MadeRun({}, dict.fromkeys(TARGETS, 1.0), name="here")], "other")
    found, notes = read(output_dir, experiment="other")
    assert [run.name for run in found] == ["here"]
    (note,) = notes
    assert note.startswith(f"Not compared: 1 run in '{output_dir}' (ended) is not sent yet: menvae-sweep sync")


@pytest.mark.parametrize("content", [b"", b"no database" * 100], ids=["empty", "garbage"])
def test_something_else_than_a_store(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mlflow.db").write_bytes(content)
    with pytest.raises(UserError, match=r"is not an MLflow store|cannot be read"):
        read(tmp_path)
    assert (tmp_path / "mlflow.db").read_bytes() == content


def test_a_database_of_somebody_else_stays_as_it_is(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        connection.execute("create table patients (name text)")
    before = (tmp_path / "mlflow.db").read_bytes()
    with pytest.raises(UserError, match="is not an MLflow store"):
        read(tmp_path)
    assert (tmp_path / "mlflow.db").read_bytes() == before


def test_an_old_store_is_one_sentence(output_dir: Path) -> None:
    with closing(sqlite3.connect(output_dir / "mlflow.db")) as connection:
        connection.execute("update alembic_version set version_num = '451aebb31d03'")
        connection.commit()
    with pytest.raises(UserError, match="cannot be read: Detected out-of-date database schema") as raised:
        read(output_dir)
    assert "\n" not in str(raised.value)


def test_no_such_experiment(output_dir: Path) -> None:
    with pytest.raises(UserError, match=r"tracking\.experiment: 'othr' does not exist in .*did you mean 'other'"):
        read(output_dir, experiment="othr")


def test_no_finished_run(output_dir: Path) -> None:
    with pytest.raises(UserError, match=r"experiment 'other' in .* has no finished run to compare: it is empty"):
        read(output_dir, experiment="other")
    fill(output_dir, [MadeRun(name="busy", status="RUNNING")])
    with pytest.raises(UserError, match=r"no finished run to compare: it has 1 running \(busy\)"):
        read(output_dir)


def test_reading_changes_nothing(output_dir: Path, tmp_path: Path) -> None:
    fill(output_dir, [MadeRun(values=VALUES)])
    before = {path: path.read_bytes() for path in output_dir.rglob("*") if path.is_file()}
    program = (
        "import sys\nfrom pathlib import Path\nfrom menvae.comparison.tracked_runs import RunStore, TrackingSettings\n"
        "RunStore.open(TrackingSettings(), Path(sys.argv[1])).runs()"
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", program, str(output_dir)],
        cwd=elsewhere,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(elsewhere.iterdir()) == []
    assert {path: path.read_bytes() for path in output_dir.rglob("*") if path.is_file()} == before
