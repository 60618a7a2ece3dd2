"""Against real SQLite stores; what they hold is read with sqlite3, not with the client under test."""

import json
import logging
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from menvae.conformance import Case, TrackerConformance
from menvae.errors import UserError
from menvae.tracking.local import LocalLog
from menvae.tracking.mlflow import tracker as tracking
from menvae.tracking.mlflow.store import say_if_from_environment
from menvae.tracking.mlflow.tracker import MLflowTracker
from menvae.tracking.tracker import TrackerContext, TrackingSettings
from menvae.tracking.trackers import Trackers

VICTIM = Path(__file__).with_name("victim.py")


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without runs, made once: creating one takes seconds."""
    output_dir = tmp_path_factory.mktemp("store")
    tracking.open_experiment(tracking.tracking_uri(TrackingSettings(), output_dir), "other", output_dir)
    return output_dir / "mlflow.db"


@pytest.fixture
def output_dir(tmp_path: Path, empty_store: Path) -> Path:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return tmp_path


def query(database: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(sql).fetchall()


def stored_points(database: Path, run_id: str = "%") -> list[tuple[str, int, float]]:
    return sorted(query(database, f"select key, step, value from metrics where run_uuid like '{run_id}'"))


def expected_points(log: LocalLog) -> list[tuple[str, int, float]]:
    rows = log.metrics() + log.timings()
    return sorted(
        (key, int(row["epoch"] or 0), value)
        for row in rows
        for key, value in row.items()
        if key != "epoch" and value is not None
    )


def context(output_dir: Path, settings: TrackingSettings) -> TrackerContext:
    return TrackerContext(settings=settings, output_dir=output_dir, run_dir=output_dir / "run", run_name="a_run")


def begin(
    output_dir: Path, log: LocalLog, params: dict[str, Any] | None = None, settings: TrackingSettings | None = None
) -> MLflowTracker:
    tracker = MLflowTracker(context(output_dir, settings or TrackingSettings()))
    tracker.start(params or {}, {}, log)
    return tracker


def add(log: LocalLog, epochs: range, tracker: MLflowTracker | None = None) -> None:
    for epoch in epochs:
        metrics = {"val_epoch/loss": 1 / epoch, "sem/vol_r2": None, "diag/z_std": float("nan")}
        timings = {"time/epoch_seconds": 0.5}
        log.append(epoch, metrics, timings)
        if tracker is not None:
            tracker.log(epoch, metrics, timings)


@pytest.fixture
def log(output_dir: Path) -> LocalLog:
    return LocalLog(output_dir / "run")


class TestMLflow(TrackerConformance):
    names = ("mlflow",)

    @pytest.fixture
    def output_dir(self, tmp_path: Path, empty_store: Path) -> Path:
        (tmp_path / "outputs").mkdir()
        shutil.copy(empty_store, tmp_path / "outputs" / "mlflow.db")
        return tmp_path / "outputs"

    def values(self, case: Case, context: TrackerContext) -> dict[str, float]:
        last = (
            "select key, value from latest_metrics join runs using (run_uuid) "
            f"where name = '{context.run_name}' and is_nan = 0"
        )
        return dict(query(context.output_dir / "mlflow.db", last))


def run_script(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run in a directory of its own, with everything in the environment that could lead MLflow astray."""
    directory.mkdir(parents=True, exist_ok=True)
    root = Path(__file__).parents[2]
    decoys = {"MLFLOW_RUN_ID": "0" * 32, "MLFLOW_EXPERIMENT_NAME": "decoy"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=directory,
        env=os.environ | decoys | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_killed_at_any_moment_and_repeated_equals_uninterrupted(tmp_path: Path) -> None:
    result = run_script(tmp_path / "cwd", str(VICTIM), "kill", str(tmp_path / "outputs"), "1")
    assert (result.returncode, result.stderr) == (0, "")
    assert int(result.stdout) >= 8
    sys.path.insert(0, str(VICTIM.parent))
    try:
        import victim
    finally:
        sys.path.remove(str(VICTIM.parent))
    uninterrupted = LocalLog(tmp_path / "uninterrupted")
    for epoch in range(1, victim.NUM_EPOCHS + 1):
        uninterrupted.append(epoch, victim.metrics_of(epoch), {})
    database = tmp_path / "outputs" / "mlflow.db"
    runs = query(database, "select name, status, run_uuid from runs order by name")
    assert [(name, status) for name, status, _ in runs] == [("early", "FINISHED"), ("run", "FINISHED")]
    for name, _, run_id in runs:
        stored = stored_points(database, run_id)
        assert [point for point in stored if not point[0].startswith("time/")] == expected_points(uninterrupted)
        assert [point[1] for point in stored if point[0].startswith("time/")] == list(range(1, victim.NUM_EPOCHS + 1))
        run_dir = tmp_path / "outputs" / "runs" / name
        for file in ("metrics.jsonl", "metrics.csv"):
            assert (run_dir / file).read_bytes() == (tmp_path / "uninterrupted" / file).read_bytes()
        assert dict(query(database, f"select key, value from params where run_uuid = '{run_id}'")) == {
            "seed": "1",
            "loss.lambda_dcor": "0.5",
            "data.modalities": '["t1", "flair"]',
            "note": "x" * 5000,
        }
        tags = dict(query(database, f"select key, value from tags where run_uuid = '{run_id}'"))
        assert (tags["host"], tags["verdict"]) == ("here", "done")
        (artifact,) = (tmp_path / "outputs" / "mlartifacts" / run_id).rglob("metrics.jsonl")
        assert artifact.read_bytes() == (run_dir / "metrics.jsonl").read_bytes()


def test_sixteen_processes_of_one_sweep_at_once_on_a_store_that_is_not_there(tmp_path: Path) -> None:
    result = run_script(tmp_path / "cwd", str(VICTIM), "race", str(tmp_path / "outputs"), "16")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert list((tmp_path / "cwd").iterdir()) == []
    database = tmp_path / "outputs" / "mlflow.db"
    assert query(database, "select name from experiments order by name") == [("Default",), ("menvae",)]
    runs = query(
        database, "select r.name, r.status, count(*) from runs r join metrics m using (run_uuid) group by r.name"
    )
    assert runs == [(f"run_{index:02d}", "FINISHED", 271) for index in range(16)]
    assert query(database, "select count(*) from runs") == [(17,)]
    kinds = "select run_uuid from tags where key = 'menvae.kind' and value = 'sweep'"
    ((parent,),) = query(database, kinds)
    assert query(database, f"select name from runs where run_uuid = '{parent}'") == [("a_sweep",)]
    children = "select value, count(*) from tags where key = 'mlflow.parentRunId' group by value"
    assert query(database, children) == [(parent, 16)]


def test_fresh_store_in_a_fresh_process_is_silent(tmp_path: Path) -> None:
    script = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(VICTIM.parent)!r})
import victim
assert "mlflow" not in sys.modules and "torch" not in sys.modules
import random
random.seed(1); state = random.getstate()
run_id = victim.train(Path({str(tmp_path / "out put=s")!r}), "run", 0.0)
assert run_id != "0" * 32
assert random.getstate() == state
"""
    result = run_script(tmp_path / "cwd", "-c", script)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert list((tmp_path / "cwd").iterdir()) == []
    assert len(stored_points(tmp_path / "out put=s" / "mlflow.db")) == 271


def test_nan_and_null_are_left_out(output_dir: Path, log: LocalLog) -> None:
    tracker = begin(output_dir, log)
    add(log, range(1, 4), tracker)
    tracker.finish("FINISHED")
    points = stored_points(output_dir / "mlflow.db")
    assert points == expected_points(log)
    assert {key for key, _, _ in points} == {"val_epoch/loss", "time/epoch_seconds"}


def test_values_have_the_times_of_the_log_and_a_run_sent_later_those_of_its_training(
    output_dir: Path, log: LocalLog
) -> None:
    tracker = begin(output_dir, log)
    add(log, range(1, 3), tracker)
    time.sleep(0.02)
    tracker.log(2, {"gate/passed": 1.0}, {})
    tracker.finish("KILLED")
    times = log.timestamps_ms()
    asked = "select distinct step, timestamp from metrics order by step"
    assert query(output_dir / "mlflow.db", asked) == sorted(times.items())
    elsewhere = begin(output_dir, log, settings=TrackingSettings(experiment="elsewhere"))
    elsewhere.log(2, {"gate/passed": 1.0}, {})
    elsewhere.finish("FINISHED")
    of_run = f"select start_time, end_time from runs where run_uuid = '{elsewhere.run_id}'"
    assert query(output_dir / "mlflow.db", of_run) == [(times[1], times[2])]


def test_second_process_sends_only_what_is_missing(output_dir: Path, log: LocalLog) -> None:
    tracker = begin(output_dir, log)
    add(log, range(1, 5), tracker)
    tracker.finish("KILLED")
    log.rewind(2)
    again = begin(output_dir, log)
    add(log, range(3, 7), again)
    again.finish("FINISHED")
    assert again.run_id == tracker.run_id
    assert stored_points(output_dir / "mlflow.db") == expected_points(log)
    assert query(output_dir / "mlflow.db", "select status from runs") == [("FINISHED",)]


def test_killed_between_creating_the_run_and_writing_its_id(output_dir: Path, log: LocalLog) -> None:
    first = begin(output_dir, log)
    first.finish("FINISHED")
    path = output_dir / "run" / "mlflow_run_id"
    entries = json.loads(path.read_text())
    assert entries[0]["run_id"] == first.run_id
    path.write_text(json.dumps([entries[0] | {"run_id": None}]))
    second = begin(output_dir, log)
    second.finish("FINISHED")
    assert second.run_id == first.run_id
    assert query(output_dir / "mlflow.db", "select count(*) from runs") == [(1,)]


def test_another_uri_or_experiment_is_another_run_with_all_metrics(
    output_dir: Path, log: LocalLog, empty_store: Path
) -> None:
    shutil.copy(empty_store, output_dir / "other.db")
    first = begin(output_dir, log)
    add(log, range(1, 4), first)
    first.finish("FINISHED")
    other = begin(output_dir, log, settings=TrackingSettings(uri=f"sqlite:///{output_dir}/other.db"))
    other.finish("FINISHED")
    assert other.run_id != first.run_id
    assert stored_points(output_dir / "other.db") == stored_points(output_dir / "mlflow.db") == expected_points(log)
    back = begin(output_dir, log)
    back.finish("FINISHED")
    assert back.run_id == first.run_id
    elsewhere = begin(output_dir, log, settings=TrackingSettings(experiment="elsewhere"))
    elsewhere.finish("FINISHED")
    assert len({first.run_id, other.run_id, elsewhere.run_id}) == 3


@pytest.mark.parametrize("change", ["deleted run", "deleted store"])
def test_a_run_that_is_gone_is_made_anew(
    output_dir: Path, log: LocalLog, empty_store: Path, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = begin(output_dir, log)
    add(log, range(1, 4), first)
    first.finish("FINISHED")
    database = output_dir / "mlflow.db"
    if change == "deleted run":
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("update runs set lifecycle_stage = 'deleted'")
            connection.execute("delete from metrics")
            connection.commit()
    else:
        shutil.copy(empty_store, database)
    second = begin(output_dir, log)
    second.finish("FINISHED")
    assert second.run_id != first.run_id
    assert stored_points(database) == expected_points(log)
    assert [record.getMessage() for record in caplog.records if "no longer in the store" in record.getMessage()]


def test_parameters_in_full_up_to_the_limit_and_readable_beyond(
    output_dir: Path, log: LocalLog, caplog: pytest.LogCaptureFixture
) -> None:
    params = {
        "long": "a" * 6000,
        "longer": "b" * 7300,
        "none": None,
        "flag": True,
        "rate": 1e-4,
        "empty": "",
        "sizes": {"vol": 24},
        **{f"key_{index}": index for index in range(250)},
    }
    begin(output_dir, log, params).finish("FINISHED")
    begin(output_dir, log, params | {"flag": False, "later": 1}).finish("FINISHED")
    stored = dict(query(output_dir / "mlflow.db", "select key, value from params"))
    assert stored["long"] == "a" * 6000
    assert len(stored["longer"]) == 6000
    assert stored["longer"].endswith("bbb [cut: 7300 characters, in full in config.yaml]")
    assert [stored[key] for key in ("none", "flag", "rate", "empty", "sizes", "later")] == [
        "null",
        "true",
        "0.0001",
        "",
        '{"vol": 24}',
        "1",
    ]
    assert len(stored) == len(params) + 1
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert sum("longer has 7300 characters" in message for message in messages) == 2
    assert [message for message in messages if message.endswith("changed parameters: flag")]


def test_more_than_a_batch_and_keys_mlflow_refuses(output_dir: Path, log: LocalLog) -> None:
    tracker = begin(output_dir, log)
    metrics: dict[str, float | None] = {f"sem/feature_{index}_r2": index / 7 for index in range(1500)}
    metrics |= {"sem/volume (mm³)_r2": 0.5, "a//b": 1.0, "/c": 2.0, "../d": 3.0, "k" * 300: 4.0}
    log.append(1, metrics, {})
    tracker.log(1, metrics, {})
    tracker.finish("FINISHED")
    points = stored_points(output_dir / "mlflow.db")
    assert len(points) == 1505
    assert ("sem/feature_1499_r2", 1, 1499 / 7) in points
    assert ("sem/volume _mm³__r2", 1, 0.5) in points


def test_artifacts_keep_their_relative_path(output_dir: Path, log: LocalLog) -> None:
    run_dir = output_dir / "run"
    (run_dir / "pictures" / "epoch_1").mkdir(parents=True)
    (run_dir / "checkpoints").mkdir()
    for name in ("config.yaml", "pictures/epoch_1/slices.png", "checkpoints/best.ckpt"):
        (run_dir / name).write_text(name)
    tracker = begin(output_dir, log)
    tracker.log_artifacts([run_dir / "config.yaml", Path("pictures"), run_dir / "checkpoints" / "best.ckpt"])
    tracker.log_artifacts([Path("is_not_there")])
    with pytest.raises(ValueError, match="not in the run directory"):
        tracker.log_artifacts([output_dir / "mlflow.db"])
    tracker.finish("FINISHED")
    stored = output_dir / "mlartifacts"
    assert tracker.run_id is not None
    root = next(path for path in stored.rglob("artifacts") if path.is_dir())
    assert tracker.run_id in root.parts
    files = {path.relative_to(root).as_posix(): path.read_text() for path in root.rglob("*") if path.is_file()}
    assert files == {name: name for name in ("config.yaml", "pictures/epoch_1/slices.png", "checkpoints/best.ckpt")}


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_store_that_fails_for_a_while_loses_nothing(
    output_dir: Path, log: LocalLog, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    log_batch = MlflowClient.log_batch
    num_calls = 0

    def flaky(self: MlflowClient, run_id: str, *args: Any, **arguments: Any) -> Any:
        nonlocal num_calls
        num_calls += 1
        if num_calls <= 2:
            raise ConnectionError("no route to host")
        return log_batch(self, run_id, *args, **arguments)

    monkeypatch.setattr(MlflowClient, "log_batch", flaky)
    tracker = begin(output_dir, log, {"seed": 1})
    add(log, range(1, 6), tracker)
    tracker.finish("FINISHED")
    assert stored_points(output_dir / "mlflow.db") == expected_points(log)
    (warning,) = warnings_of(caplog)
    assert str(output_dir / "mlflow.db") in warning
    assert "ConnectionError: no route to host" in warning


def test_store_that_hangs_does_not_hold_the_run(
    output_dir: Path, log: LocalLog, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = threading.Event()
    monkeypatch.setattr(tracking, "open_experiment", lambda *_: answer.wait())
    monkeypatch.setattr(tracking, "_FINISH_SECONDS", 0.3)
    monkeypatch.setattr(tracking, "_SILENT_SECONDS", 0.1)
    begun = time.monotonic()
    tracker = begin(output_dir, log)
    add(log, range(1, 4), tracker)
    tracker.finish("FINISHED")
    assert time.monotonic() - begun < 2
    assert tracker.run_id is None
    (warning,) = warnings_of(caplog)
    assert "has not answered for 0 s (while opening the store)" in warning
    answer.set()


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(tracking, "_FINISH_ATTEMPTS", 1)


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("uri", ["http://user:secret@127.0.0.1:9", "sqlite:///{output_dir}/a_file/mlflow.db"])
def test_store_that_is_not_there_is_one_warning_and_replayed_later(
    output_dir: Path, log: LocalLog, caplog: pytest.LogCaptureFixture, uri: str
) -> None:
    (output_dir / "a_file").write_text("")
    tracker = begin(output_dir, log, settings=TrackingSettings(uri=uri.format(output_dir=output_dir)))
    add(log, range(1, 4), tracker)
    tracker.finish("FINISHED")
    (warning,) = warnings_of(caplog)
    assert "the run continues" in warning
    assert "secret" not in caplog.text
    begin(output_dir, log).finish("FINISHED")
    assert stored_points(output_dir / "mlflow.db") == expected_points(log)


class Server:
    """A real ``mlflow server`` on a port of its own, which can be stopped and started again."""

    def __init__(self, folder: Path, database: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder, self.database = folder, database
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        options = ["--backend-store-uri", f"sqlite:///{self.database}", "--port", str(self.port), "--workers", "1"]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # eight processes more
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *options, "--artifacts-destination", "artifacts"],
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 90
        while not self.is_there():
            assert time.monotonic() < deadline, (self.folder / "server.log").read_text()
            time.sleep(0.1)

    def is_there(self) -> bool:
        try:
            with urlopen(f"{self.uri}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def stop(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)  # the server and its worker
            self.process.wait()
            self.process = None


@pytest.fixture
def server(tmp_path: Path, empty_store: Path) -> Iterator[Server]:
    folder = tmp_path / "server"
    folder.mkdir()
    shutil.copy(empty_store, folder / "mlflow.db")
    server = Server(folder, folder / "mlflow.db")
    yield server
    server.stop()


@pytest.mark.usefixtures("_impatient")
def test_server_that_is_away_in_the_middle_of_a_run_gets_all_of_it(
    output_dir: Path, log: LocalLog, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    server.start()
    tracker = begin(output_dir, log, {"seed": 1}, TrackingSettings(uri=server.uri))
    add(log, range(1, 4), tracker)
    deadline = time.monotonic() + 60
    while len(stored_points(server.database)) < 6:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    server.stop()
    assert not server.is_there()
    add(log, range(4, 7), tracker)
    (output_dir / "run" / "config.yaml").write_text("seed: 1")
    tracker.log_artifacts([Path("config.yaml")])
    while not warnings_of(caplog):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert len(stored_points(server.database)) == 6
    server.start()
    add(log, range(7, 10), tracker)
    assert tracker.finish("FINISHED", {"menvae.state": "finished"})
    assert stored_points(server.database) == expected_points(log)
    assert len(expected_points(log)) == 18
    assert query(server.database, "select name, status from runs") == [("a_run", "FINISHED")]
    assert ("menvae.state", "finished") in query(server.database, "select key, value from tags")
    assert query(server.database, "select key, value from params") == [("seed", "1")]
    (artifact,) = (server.folder / "artifacts").rglob("config.yaml")
    assert artifact.read_text() == "seed: 1"
    (warning,) = warnings_of(caplog)
    assert server.uri in warning


@pytest.mark.parametrize(
    "uri", ["file:///somewhere", "mlruns", "", "ftp://host", "sqlite:///relative.db", "sqlite://", "databricks"]
)
def test_impossible_uri_is_the_users_error(tmp_path: Path, uri: str) -> None:
    with pytest.raises(UserError, match=r"^tracking\.uri="):
        MLflowTracker(context(tmp_path, TrackingSettings(uri=uri)))


@pytest.mark.parametrize("uri", [None, "https://host", "postgresql+psycopg2://u:p@h/db", "mysql://h/db"])
def test_possible_uri(tmp_path: Path, uri: str | None) -> None:
    resolved = tracking.tracking_uri(TrackingSettings(uri=uri), tmp_path)
    assert resolved == (uri or f"sqlite:///{tmp_path.resolve()}/mlflow.db")


def test_disabled_does_nothing(tmp_path: Path) -> None:
    trackers = Trackers.of(context(tmp_path, TrackingSettings(enabled=False)))
    trackers.start({}, {}, LocalLog(tmp_path / "run"))
    trackers.log(1, {"a": 1.0}, {})
    trackers.log_artifacts([])
    assert trackers.finish("FINISHED") == frozenset()
    assert list(tmp_path.iterdir()) == []


def test_output_directory_that_moved_keeps_its_runs(output_dir: Path, log: LocalLog) -> None:
    first = begin(output_dir, log)
    add(log, range(1, 3), first)
    first.finish("FINISHED")
    moved = output_dir / "moved"
    moved.mkdir()
    for name in ("mlflow.db", "run"):
        shutil.move(output_dir / name, moved / name)
    second = begin(moved, LocalLog(moved / "run"))
    second.finish("FINISHED")
    assert second.run_id == first.run_id
    assert len(stored_points(moved / "mlflow.db")) == 4


SENDS_AN_ARTIFACT = """
import sys
from pathlib import Path
from menvae.tracking.local import LocalLog
from menvae.tracking.mlflow.tracker import MLflowTracker
from menvae.tracking.tracker import TrackerContext, TrackingSettings

output_dir = Path(sys.argv[1])
settings, run_dir = TrackingSettings(), output_dir / "run"
tracker = MLflowTracker(TrackerContext(settings=settings, output_dir=output_dir, run_dir=run_dir, run_name="a_run"))
tracker.start({}, {}, LocalLog(run_dir))
tracker.log_artifacts([Path("b.txt")])
print(tracker.finish("FINISHED"))
"""


def test_artifacts_follow_an_output_directory_that_moved(output_dir: Path) -> None:
    before, moved = output_dir / "before", output_dir / "moved"
    (before / "run").mkdir(parents=True)
    shutil.move(output_dir / "mlflow.db", before / "mlflow.db")
    (before / "run" / "a.txt").write_text("a")
    first = begin(before, LocalLog(before / "run"))
    first.log_artifacts([Path("a.txt")])
    assert first.finish("FINISHED")
    shutil.move(before, moved)
    (moved / "run" / "b.txt").write_text("b")
    # in another process, as MLflow keeps the addresses of this one
    done = run_script(output_dir / "cwd", "-c", SENDS_AN_ARTIFACT, str(moved))
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
    assert not before.exists()
    stored = {path.name: path.read_text() for path in (moved / "mlartifacts").rglob("*.txt")}
    assert stored == {"a.txt": "a", "b.txt": "b"}
    ((address,),) = query(moved / "mlflow.db", "select artifact_uri from runs")
    assert address == f"{(moved / 'mlartifacts').as_uri()}/{first.run_id}/artifacts"


def test_keys_that_clean_to_one_name_keep_their_values(output_dir: Path, log: LocalLog) -> None:
    values = {"a(b)": 1.0, "a[b]": 2.0, "a_b_": 3.0}
    log.append(1, values, {})
    for _ in range(2):  # the second process gives the same names
        assert begin(output_dir, log, params={"p(1)": 1, "p[1]": 2}).finish("FINISHED")
    stored = stored_points(output_dir / "mlflow.db")
    assert sorted(value for _, _, value in stored) == [1.0, 2.0, 3.0]
    assert stored[0][:2] == ("a_b_", 1)
    assert sorted(value for (value,) in query(output_dir / "mlflow.db", "select value from params")) == ["1", "2"]


def test_the_environment_variable_of_mlflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://user:secret@team")
    assert tracking.tracking_uri(TrackingSettings(), tmp_path) == "https://user:secret@team"
    for settings in (TrackingSettings(), TrackingSettings(uri="https://own")):
        say_if_from_environment(settings)
    assert caplog.messages == ["MLflow store: https://user:***@team, from MLFLOW_TRACKING_URI"]
    assert tracking.tracking_uri(TrackingSettings(uri="https://own"), tmp_path) == "https://own"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "databricks")
    with pytest.raises(UserError, match=r"^MLFLOW_TRACKING_URI=databricks is not a tracking store"):
        tracking.tracking_uri(TrackingSettings(), tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert tracking.tracking_uri(TrackingSettings(), tmp_path) == f"sqlite:///{tmp_path.resolve()}/mlflow.db"


def test_an_output_directory_that_no_address_can_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^output_dir: '.*what\?/o' contains \?"):
        MLflowTracker(context(tmp_path / "what?" / "o", TrackingSettings()))
    assert list(tmp_path.iterdir()) == []


FAILING = """
import logging, sqlite3, sys, time
from pathlib import Path
from menvae.tracking.local import LocalLog
from menvae.tracking.mlflow.tracker import MLflowTracker
from menvae.tracking.tracker import TrackerContext, TrackingSettings

output_dir = Path(sys.argv[1])
logging.basicConfig(format="%(levelname)s %(message)s", level=logging.INFO)
settings, run_dir = TrackingSettings(), output_dir / "run"
tracker = MLflowTracker(TrackerContext(settings=settings, output_dir=output_dir, run_dir=run_dir, run_name="r"))
log = LocalLog(output_dir / "run")
tracker.start({}, {}, log)
while tracker.run_id is None:
    time.sleep(0.05)
store = sqlite3.connect(output_dir / "mlflow.db", isolation_level=None)
store.execute("alter table metrics rename to away")  # an operational error as a lock is, which MLflow awaits for 20 s
for epoch in range(1, 4):
    log.append(epoch, {"a": float(epoch)}, {})
    tracker.log(epoch, {"a": float(epoch)}, {})
    time.sleep(1.0)
store.execute("alter table away rename to metrics")
print(tracker.finish("FINISHED"))
"""


def test_a_database_that_fails_for_a_moment_is_one_warning(output_dir: Path) -> None:
    done = run_script(output_dir / "cwd", "-c", FAILING, str(output_dir))
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
    assert "Traceback" not in done.stderr
    (warning,) = [line for line in done.stderr.splitlines() if line.startswith("WARNING")]
    assert "failed: MlflowException" in warning
    assert query(output_dir / "mlflow.db", "select step, value from metrics where key = 'a' order by step") == [
        (1, 1.0),
        (2, 2.0),
        (3, 3.0),
    ]


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'[{"uri": null}]', b"\xff"])
def test_a_damaged_run_file_makes_another_run(
    content: bytes, output_dir: Path, log: LocalLog, caplog: pytest.LogCaptureFixture
) -> None:
    (output_dir / "run").mkdir()
    (output_dir / "run" / "mlflow_run_id").write_bytes(content)
    assert begin(output_dir, log).finish("FINISHED")
    (warning,) = warnings_of(caplog)
    assert "mlflow_run_id is damaged" in warning
