"""MLflow's server on PostgreSQL: many points at once, and a server that dies or answers too late."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tracking_server import TrackingServer

from menvae.tracking.local import LocalLog
from menvae.tracking.mlflow.tracker import MLflowTracker
from menvae.tracking.tracker import DatasetInput, TrackerContext, TrackingSettings

VICTIM = Path(__file__).with_name("victim.py")
NUM_POINTS = 64


def logged(run_dir: Path) -> list[tuple[str, int, float]]:
    """Return (key, epoch, value) of everything in the log of a run."""
    log = LocalLog(run_dir)
    return sorted(
        (key, int(row["epoch"] or 0), value)
        for row in log.metrics() + log.timings()
        for key, value in row.items()
        if key != "epoch" and value is not None
    )


def stored(server: TrackingServer, experiment: str) -> dict[str, list[tuple[str, int, float]]]:
    """Return {run: (key, step, value) of each of its rows}; a run of the same name is another key."""
    rows = server.query(
        "select runs.name || ' ' || run_uuid, key, step, value from metrics join runs using (run_uuid) "
        "join experiments using (experiment_id) where experiments.name = %s",
        experiment,
    )
    found: dict[str, list[tuple[str, int, float]]] = {}
    for run, *point in rows:
        found.setdefault(run, []).append(tuple(point))
    return {run: sorted(points) for run, points in found.items()}


def active_runs(server: TrackingServer, experiment: str) -> list[tuple[str, str, str]]:
    """Return (name, status, id) of the runs that were not deleted."""
    return server.query(
        "select runs.name, status, run_uuid from runs join experiments using (experiment_id) "
        "where experiments.name = %s and runs.lifecycle_stage = 'active' order by runs.name",
        experiment,
    )


def test_64_points_at_once_while_the_server_is_killed_and_started_again(
    tracking_server: TrackingServer, tmp_path: Path
) -> None:
    output_dir, log = tmp_path / "outputs", tmp_path / "points.log"
    output_dir.mkdir()
    arguments = [str(VICTIM), "race", str(output_dir), str(NUM_POINTS), tracking_server.uri]
    environ = {**os.environ, "PYTHONPATH": str(VICTIM.parents[2]), "OMP_NUM_THREADS": "1"}
    with log.open("w") as errors:
        points = subprocess.Popen([sys.executable, *arguments], cwd=tmp_path, env=environ, stderr=errors)
    try:

        def num_arrived() -> int:
            return sum(len(rows) for rows in stored(tracking_server, "crowd").values())

        deadline = time.monotonic() + 120
        while len(active_runs(tracking_server, "crowd")) <= NUM_POINTS:
            assert points.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        tracking_server.kill()
        arrived = num_arrived()
        assert 0 < arrived < num_values(range(1, 6)) * NUM_POINTS, "some have sent their first epochs, and some not"
        (output_dir / "go").touch()
        time.sleep(2.0)  # meanwhile points train on, and some end
        tracking_server.up()
        assert points.wait(timeout=300) == 0, log.read_text()
    finally:
        points.kill()
        points.wait()
    runs = active_runs(tracking_server, "crowd")
    names = [f"run_{index:02d}" for index in range(NUM_POINTS)]
    assert [name for name, _, _ in runs] == ["a_sweep", *names], "each run once, and their parent"
    assert {status for _, status, _ in runs[1:]} == {"FINISHED"}
    found = stored(tracking_server, "crowd")
    assert found == {f"{name} {run_id}": logged(output_dir / "runs" / name) for name, _, run_id in runs[1:]}
    assert sum(map(len, found.values())) == num_values(range(1, 13)) * NUM_POINTS
    (parent,) = {
        value
        for (value,) in tracking_server.query(
            "select value from tags join runs using (run_uuid) join experiments using (experiment_id) "
            "where experiments.name = 'crowd' and key = 'mlflow.parentRunId' and runs.lifecycle_stage = 'active'"
        )
    }
    assert parent == runs[0][2]
    for name, _, run_id in runs[1:]:
        (artifact,) = (tracking_server.directory / "artifacts").glob(f"*/{run_id}/artifacts/metrics.jsonl")
        assert artifact.read_bytes() == (output_dir / "runs" / name / "metrics.jsonl").read_bytes()


def num_values(epochs: range) -> int:
    """Return how many values a run of `victim.py` logs: 20 terms and a duration, and two that some epochs lack."""
    return sum(21 + (epoch % 3 != 0) + (epoch != 2) for epoch in epochs)


class Between(ThreadingHTTPServer):
    """Passes requests on to a server, except that some meet a fault.

    Attributes:
        is_done: set once each fault has happened.
    """

    daemon_threads = True

    def __init__(self, server: str, path: str, part: bytes, faults: Sequence[str]) -> None:
        """Args: path and part: of the address and of the content of the requests that meet the faults, one each. A
        fault is "away": no answer; "refused": an error; "lost": the server answers, and nobody gets the answer; "late":
        the client loses its connection a second before the server gets the request."""
        super().__init__(("127.0.0.1", 0), _Pass)
        self.is_done = threading.Event()
        self.host = server.removeprefix("http://")
        self._wanted, self._faults, self._lock = (path, part), list(faults), threading.Lock()

    def fault_of(self, path: str, content: bytes) -> str | None:
        """Return the fault that a request meets, or None."""
        with self._lock:
            is_wanted = path.endswith(self._wanted[0]) and self._wanted[1] in content
            return self._faults.pop(0) if is_wanted and self._faults else None

    def lose(self, connection: socket.socket, request: Callable[[], object], fault: str) -> None:
        """Answer a request to nobody."""
        if fault == "late":
            connection.shutdown(socket.SHUT_RDWR)
            time.sleep(1.0)
        if fault != "away":
            request()
        if fault != "late":
            connection.shutdown(socket.SHUT_RDWR)
        self.say_if_done()

    def say_if_done(self) -> None:
        """Set `is_done` if no fault is left."""
        if not self._faults:
            self.is_done.set()


class _Pass(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        assert isinstance(self.server, Between)
        fault = self.server.fault_of(self.path, content)
        if fault == "refused":
            status, kind, answer = 400, "application/json", b'{"error_code": "BAD_REQUEST", "message": "not now"}'
            self.server.say_if_done()
        elif fault is not None:
            self.server.lose(self.connection, lambda: self._answer(content), fault)
            self.close_connection = True
            return
        else:
            status, kind, answer = self._answer(content)
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_POST = do_PATCH = do_PUT = do_GET

    def _answer(self, content: bytes) -> tuple[int, str, bytes]:
        assert isinstance(self.server, Between)
        to_server = http.client.HTTPConnection(self.server.host, timeout=60)
        kind = {"Content-Type": self.headers["Content-Type"]} if "Content-Type" in self.headers else {}
        to_server.request(self.command, self.path, content, kind)
        response = to_server.getresponse()
        try:
            return response.status, response.getheader("Content-Type", "text/plain"), response.read()
        finally:
            to_server.close()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the base class
        pass


@contextmanager
def between(
    server: TrackingServer, path: str, part: bytes, faults: Sequence[str]
) -> Iterator[tuple[str, threading.Event]]:
    """Yield the address of a `Between`, and its ``is_done``."""
    proxy = Between(server.uri, path, part, faults)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{proxy.server_port}", proxy.is_done
    finally:
        proxy.shutdown()
        proxy.server_close()


def a_run(uri: str, directory: Path) -> tuple[MLflowTracker, LocalLog]:
    """Return a tracker that has not started, of an experiment named as the directory, and the log of its run."""
    settings, run_dir = TrackingSettings(uri=uri, experiment=directory.name), directory / "run"
    context = TrackerContext(settings=settings, output_dir=directory, run_dir=run_dir, run_name="a_run")
    return MLflowTracker(context), LocalLog(run_dir)


@pytest.mark.parametrize("fault", ["lost", "late"])
@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("experiments/create", b""),
        ("runs/create", b""),
        ("runs/log-batch", b'"params"'),
        ("runs/log-batch", b'"metrics"'),
        ("runs/log-batch", b'"tags"'),
        ("runs/log-inputs", b""),
        ("runs/update", b"FINISHED"),
    ],
)
def test_a_request_that_is_repeated_because_its_answer_was_lost(
    tracking_server: TrackingServer, tmp_path: Path, path: str, part: bytes, fault: str
) -> None:
    experiment = tmp_path.name
    with between(tracking_server, path, part, [fault]) as (uri, is_done):
        tracker, log = a_run(uri, tmp_path)
        tracker.start({"seed": 1}, {"host": "here"}, log, [DatasetInput("phantom", "0" * 16, "/data", "training")])
        for epoch in range(1, 4):
            log.append(epoch, {"val_epoch/loss": 1 / epoch}, {"time/train_s": 0.5})
            tracker.log(epoch, {"val_epoch/loss": 1 / epoch}, {"time/train_s": 0.5})
        if path != "runs/update":
            assert is_done.wait(30)
        assert tracker.finish("FINISHED", {"menvae.state": "finished"})
        assert is_done.wait(30)
    assert active_runs(tracking_server, experiment) == [("a_run", "FINISHED", tracker.run_id)]
    assert stored(tracking_server, experiment) == {f"a_run {tracker.run_id}": logged(tmp_path / "run")}
    assert len(logged(tmp_path / "run")) == 6
    of_run = "where run_uuid = %s"
    assert tracking_server.query(f"select key, value from params {of_run}", tracker.run_id) == [("seed", "1")]
    tags = dict(tracking_server.query(f"select key, value from tags {of_run}", tracker.run_id))
    assert (tags["host"], tags["menvae.state"]) == ("here", "finished")
    (inputs,) = tracking_server.query("select count(*) from inputs where destination_id = %s", tracker.run_id)
    assert inputs == (1,)


def test_one_refusal_after_a_time_away_is_not_the_last_attempt(tracking_server: TrackingServer, tmp_path: Path) -> None:
    # MLflow's client sends a request twice before it fails: three attempts find the server away, the fourth is refused.
    with between(tracking_server, "runs/log-batch", b'"metrics"', [*["away"] * 6, "refused"]) as (uri, is_done):
        tracker, log = a_run(uri, tmp_path)
        tracker.start({}, {}, log)
        log.append(1, {"val_epoch/loss": 1.0}, {})
        tracker.log(1, {"val_epoch/loss": 1.0}, {})
        assert tracker.finish("FINISHED")
        assert is_done.is_set()
    assert stored(tracking_server, tmp_path.name) == {f"a_run {tracker.run_id}": [("val_epoch/loss", 1, 1.0)]}


def test_the_server_alone_goes_up_and_down(tracking_server: TrackingServer) -> None:
    again = tracking_server.run("up", "--tracking", "--no-slurm")
    assert (again.returncode, again.stdout) == (0, f"export MLFLOW_TRACKING_URI={tracking_server.uri}\n")
    assert "already running" in again.stderr
    other = tracking_server.run("up", "--slurm")
    assert other.returncode == 2
    nothing = tracking_server.run("up", "--no-tracking", "--no-slurm")
    assert nothing.returncode == 2
    assert "leaves nothing to start" in nothing.stderr
    first = tracking_server.pid()
    assert tracking_server.run("down").returncode == 0
    assert not tracking_server.answers()
    assert not Path(f"/proc/{first}/cmdline").exists() or not Path(f"/proc/{first}/cmdline").read_bytes()
    uri = tracking_server.uri
    tracking_server.up()
    assert tracking_server.uri == uri, "the port is kept"
    assert tracking_server.query("select count(*) from experiments")[0][0] >= 1, "and so is what it holds"
