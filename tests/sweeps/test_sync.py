"""``menvae-sweep sync``: what trackers lack arrives once, whatever happens on the way."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from offline import OFFLINE, expected, write_run, write_sweep
from runs import TRACKED, finished_sweep_in_mlflow, menvae_sweep, mlflow_points, train

from menvae.errors import UserError
from menvae.files import FolderLock
from menvae.sweeps.sync import Destination, Outcome, sync
from menvae.tracking.facts import FILE
from menvae.tracking.mlflow import tracker as mlflow_tracker
from menvae.tracking.mlflow.store import open_experiment, tracking_uri
from menvae.tracking.tracker import TrackingSettings

pytestmark = pytest.mark.usefixtures("forked_jobs")
SENDER = Path(__file__).parents[1] / "tracking" / "sender.py"


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without runs, made once: creating one takes seconds."""
    output_dir = tmp_path_factory.mktemp("store")
    open_experiment(tracking_uri(TrackingSettings(), output_dir), "other", output_dir)
    return output_dir / "mlflow.db"


@pytest.fixture
def output_dir(tmp_path: Path, empty_store: Path) -> Path:
    (tmp_path / "outputs").mkdir()
    shutil.copy(empty_store, tmp_path / "outputs" / "mlflow.db")
    return tmp_path / "outputs"


def query(output_dir: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(output_dir / "mlflow.db")) as connection:
        return connection.execute(sql).fetchall()


def stored(output_dir: Path) -> dict[str, list[tuple[str, int, float]]]:
    """Return {run: (key, step, value) of each row}, which may hold a pair twice."""
    found: dict[str, list[tuple[str, int, float]]] = {}
    for run, *point in query(output_dir, "select name, key, step, value from metrics join runs using (run_uuid)"):
        found.setdefault(run, []).append(tuple(point))
    return {run: sorted(points) for run, points in found.items()}


def statuses(output_dir: Path) -> list[tuple[str, str]]:
    return query(output_dir, "select name, status from runs where lifecycle_stage = 'active' order by name")


def state_in_tags(output_dir: Path) -> Mapping[str, str]:
    tagged = "select name, value from tags join runs using (run_uuid) where key = 'menvae.state'"
    return dict(query(output_dir, tagged))


def test_a_sweep_without_a_network_is_that_of_one_with_it(prepared_cache: Path, tmp_path: Path) -> None:
    sweep = ("-m", "loss.lambda_dcor=1,2", "trainer.max_epochs=1", TRACKED)
    (tmp_path / "cache").symlink_to(prepared_cache)
    said = train(tmp_path, *sweep, "tracking.offline=true").stderr
    assert "menvae-sweep sync sends this run" in said
    assert not (tmp_path / "mlflow.db").exists()
    assert "0 to run" in train(tmp_path, *sweep, "tracking.offline=true").stderr
    assert menvae_sweep(tmp_path, "sync").splitlines()[0] == "3 sent"
    children = finished_sweep_in_mlflow(tmp_path, 2)
    points = mlflow_points(tmp_path)
    for child in children:
        run_dir = tmp_path / "runs" / child.data.tags["menvae.run"]
        rows = [json.loads(line) for name in ("metrics", "timings") for line in _lines(run_dir / f"{name}.jsonl")]
        values = {key: value for row in rows for key, value in row.items() if value is not None}
        values = {key: value for key, value in values.items() if key not in ("epoch", "timestamp_ms")}
        found = {(key, value) for key, _, value in points[child.info.run_id]}
        assert set(values.items()) <= found
        assert any(key.startswith("gate/") for key, _ in found)
        assert child.data.params["trainer.max_epochs"] == "1"
        stored_files = {path.name for path in (tmp_path / "mlartifacts" / child.info.run_id / "artifacts").iterdir()}
        assert {"config.yaml", "gates.json", "report.html", "metrics.jsonl", "checkpoints"} <= stored_files
        (log_time,) = {row["timestamp_ms"] for row in rows if "timestamp_ms" in row}
        assert (child.info.start_time, child.info.end_time) == (log_time, log_time), "not the time of sending"
    written = (tmp_path / "mlflow.db").stat().st_mtime_ns
    assert menvae_sweep(tmp_path, "sync").splitlines()[0] == "3 complete already"
    said = train(tmp_path, *sweep).stderr
    assert "sending" not in said
    assert (tmp_path / "mlflow.db").stat().st_mtime_ns == written, "nothing was left to do"


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_killed_again_and_again_and_two_at_once(output_dir: Path) -> None:
    names = [f"run_{number}" for number in range(4)]
    write_sweep(output_dir, "a_sweep", names)
    environ = {**os.environ, "PYTHONPATH": str(SENDER.parents[2])}
    arguments = [sys.executable, str(SENDER), str(output_dir)]
    done = subprocess.run(arguments, env=environ, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout) == (0, "8\n"), done.stderr
    assert statuses(output_dir) == [("a_sweep", "FINISHED"), *((name, "FINISHED") for name in names)]
    runs = {name: output_dir / "runs" / name for name in names}
    assert stored(output_dir) == {name: sorted(expected(run_dir)) for name, run_dir in runs.items()}
    parents = query(output_dir, "select distinct value from tags where key = 'mlflow.parentRunId'")
    assert parents == query(output_dir, "select run_uuid from runs where name = 'a_sweep'")
    for name in names:
        (run_id,) = query(output_dir, f"select run_uuid from runs where name = '{name}'")[0]
        weights = output_dir / "mlartifacts" / run_id / "artifacts" / "checkpoints" / "best.ckpt"
        assert weights.read_bytes() == name.encode()
        params = dict(query(output_dir, f"select key, value from params where run_uuid = '{run_id}'"))
        assert (params["seed"], params["data.modalities"], params["data.root"]) == ("1", '["t1c", "t1n"]', "null")


def test_runs_that_have_not_ended_are_sent_as_they_are_and_those_in_progress_are_left_alone(output_dir: Path) -> None:
    write_run(output_dir, "a", state="failed", num_epochs=2)
    write_run(output_dir, "b", state="interrupted", num_epochs=2)
    write_run(output_dir, "c", state="running", num_epochs=2)
    busy = write_run(output_dir, "d")
    write_run(output_dir, "e", state="paused", num_epochs=2)
    lock = FolderLock(busy)
    assert sync(output_dir, Destination()) == {Outcome.SENT: 4, Outcome.ACTIVE: 1}
    assert statuses(output_dir) == [("a", "FAILED"), ("b", "KILLED"), ("c", "KILLED"), ("e", "FINISHED")]
    assert state_in_tags(output_dir) == {"a": "failed", "b": "interrupted", "c": "interrupted", "e": "paused"}
    lock.release()
    assert sync(output_dir, Destination()) == {Outcome.SENT: 1, Outcome.COMPLETE: 4}
    assert {len(points) for name, points in stored(output_dir).items() if name != "d"} == {5}
    assert json.loads((output_dir / "runs" / "a" / "status.json").read_text())["reason"] == "made up"


def test_a_run_that_goes_on_after_it_was_sent_is_sent_once(output_dir: Path) -> None:
    run_dir = write_run(output_dir, "a", state="interrupted", num_epochs=2)
    sync(output_dir, Destination())
    (run_dir / "timings.jsonl").unlink()
    (run_dir / "metrics.jsonl").unlink()  # as if no checkpoint had been written
    write_run(output_dir, "a")
    assert sync(output_dir, Destination()) == {Outcome.SENT: 1}
    assert statuses(output_dir) == [("a", "FINISHED")]
    assert stored(output_dir) == {"a": sorted(expected(run_dir))}


def test_one_sweep_only(output_dir: Path) -> None:
    sweep = write_sweep(output_dir, "a_sweep", ["a", "b"])
    write_run(output_dir, "c")
    assert sync(output_dir, Destination(), sweep) == {Outcome.SENT: 3}
    assert [name for name, _ in statuses(output_dir)] == ["a", "a_sweep", "b"]
    assert json.loads((sweep.path / "tracked.json").read_text())["tags"] == {"menvae.sweep.seed": "1,2"}


def test_a_store_that_is_away_is_given_up_soon(
    output_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(mlflow_tracker, "_FINISH_ATTEMPTS", 1)
    for number in range(5):
        write_run(output_dir, f"run_{number}")
    assert sync(output_dir, Destination(uri="http://127.0.0.1:9")) == {Outcome.UNANSWERED: 5}
    assert [message for message in caplog.messages if message.endswith("of 5)")] == [
        "run_0: not sent (1 of 5)",
        "run_1: not sent (2 of 5)",
    ]
    assert sync(output_dir, Destination()) == {Outcome.SENT: 5}
    assert stored(output_dir) == {
        f"run_{number}": sorted(expected(output_dir / "runs" / f"run_{number}")) for number in range(5)
    }


def test_a_run_whose_store_was_away_is_sent_later(output_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(mlflow_tracker, "_FINISH_ATTEMPTS", 1)
    run_dir = write_run(output_dir, "a", settings=TrackingSettings(uri="http://127.0.0.1:9", experiment="mine"))
    assert json.loads((run_dir / "status.json").read_text())["trackers"] == []
    here = Destination(uri=f"sqlite:///{output_dir}/mlflow.db")
    assert sync(output_dir, here) == {Outcome.SENT: 1}
    assert json.loads((run_dir / "status.json").read_text())["trackers"] == ["mlflow"]
    experiments = "select experiments.name from runs join experiments using (experiment_id)"
    assert query(output_dir, experiments) == [("mine",)], "that of the run"


def test_what_one_store_has_is_sent_to_another_once(output_dir: Path) -> None:
    sweep = write_sweep(output_dir, "a_sweep", ["a", "b"])
    assert sync(output_dir, Destination()) == {Outcome.SENT: 3}
    elsewhere = Destination(experiment="elsewhere")
    assert sync(output_dir, elsewhere, sweep) == {Outcome.SENT: 3}
    assert sync(output_dir, elsewhere) == {Outcome.COMPLETE: 3}
    assert sync(output_dir, Destination()) == {Outcome.COMPLETE: 3}
    placed = "select experiments.name, runs.name, status from runs join experiments using (experiment_id)"
    of_each = [(name, "FINISHED") for name in ("a", "a_sweep", "b")]
    places = [(place, *run) for place in ("elsewhere", "menvae") for run in of_each]
    assert sorted(query(output_dir, placed)) == places
    twice = sorted(2 * sorted(expected(output_dir / "runs" / "a")))
    assert stored(output_dir)["a"] == twice, "once in each"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("output_dir={folder}/nowhere",),
            "output_dir: '{folder}/nowhere' has no folder 'runs' and so nothing to send",
        ),
        (("tracking.uri=mlruns",), "tracking.uri=mlruns is not a tracking store"),
        (("tracking.uri=1",), "tracking.uri: 1 is not allowed"),
        (("sweep.name=3",), "sweep.name: 3 is not allowed; it should be a valid string"),
        (("sweep.name=nowhere",), "has no sweep; launch one with menvae-train -m"),
        (("tracking.offline=true",), "tracking.offline: no such key"),
    ],
)
def test_wrong_input(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    (tmp_path / "runs").mkdir()
    given = [argument.format(folder=tmp_path) for argument in arguments]
    (said,) = menvae_sweep(tmp_path, "sync", *given, code=2).splitlines()
    assert said.startswith("menvae-sweep: ")
    assert words.format(folder=tmp_path) in said


def test_passwords_are_asked_for_again(output_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = "http://me:tulip7@127.0.0.1:9"
    run_dir = write_run(output_dir, "a", settings=TrackingSettings(uri=uri, offline=True))
    assert "tulip7" not in (run_dir / FILE).read_text()
    with pytest.raises(UserError, match=r"^tracking\.uri: 'a' keeps no passwords; give tracking\.uri=\.\.\. again$"):
        sync(output_dir, Destination())
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(mlflow_tracker, "_FINISH_ATTEMPTS", 1)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert sync(output_dir, Destination()) == {Outcome.UNANSWERED: 1}, "asked there, which is where nothing answers"


def test_what_cannot_be_sent_costs_no_other(output_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a", "b", "c", "d"):
        write_run(output_dir, name)
    (output_dir / "runs" / "a" / FILE).write_text("{")
    (output_dir / "runs" / "b" / "gates.json").unlink()
    (output_dir / "runs" / "c" / FILE).unlink()
    assert sync(output_dir, Destination()) == {Outcome.SENT: 1, Outcome.IMPOSSIBLE: 2}
    assert statuses(output_dir) == [("d", "FINISHED")]
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert [error.partition(":")[0] for error in errors] == ["a", "b"]
    assert "is damaged: it is not JSON" in errors[0]
    assert "gates.json" in errors[1]


def test_wrong_settings_are_refused_also_without_a_network(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^tracking\.uri=mlruns is not a tracking store"):
        write_run(tmp_path, "a", settings=TrackingSettings(uri="mlruns", offline=True))


def test_tracking_that_is_off_keeps_nothing_to_send(output_dir: Path) -> None:
    run_dir = write_run(output_dir, "a", settings=TrackingSettings(enabled=False))
    assert not (run_dir / FILE).exists()
    assert sync(output_dir, Destination()) == {}
    assert OFFLINE.active == frozenset()
