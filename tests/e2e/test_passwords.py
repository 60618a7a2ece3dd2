"""A password in ``tracking.uri`` reaches the store and stays nowhere else."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from runs import TRACKED, train

SECRET = "tulip7"


@contextmanager
def closed_store() -> Iterator[tuple[str, set[str]]]:
    """Yield the address of a server that refuses every request, and the credentials that it receives."""
    received: set[str] = set()

    class Refuse(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            received.add(self.headers.get("Authorization", ""))
            self.send_error(403)

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the base class
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refuse)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}", received
    finally:
        server.shutdown()
        server.server_close()


def test_a_password_is_sent_to_the_store_and_written_nowhere(tmp_path: Path) -> None:
    files = "+tracker@tracking.trackers.files=files"
    with closed_store() as (host, received):
        uri = f"tracking.uri=http://me:{SECRET}@{host}"
        told = train(tmp_path, TRACKED, uri, files, "trainer.max_epochs=1")
    assert received == {"Basic " + base64.b64encode(f"me:{SECRET}".encode()).decode()}
    assert SECRET not in told.stdout + told.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    (config,) = (path for path in written if path.name == "config.yaml")
    assert f"uri: http://me:***@{host}" in config.read_text()
    assert {"report.html", "environment.json", "runs.csv"} <= {path.name for path in written}
    assert [path for path in written if SECRET.encode() in path.read_bytes()] == []


def test_a_job_file_with_a_password_is_for_its_owner_only(tmp_path: Path) -> None:
    with closed_store() as (host, _):
        uri = f"tracking.uri=http://me:{SECRET}@{host}"
        train(tmp_path, "-m", "seed=1", uri, "trainer.max_epochs=1")  # not tracked, but configured
    holds = [path for path in tmp_path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert {path.name for path in holds} == {"job.json"}
    assert {path.stat().st_mode & 0o777 for path in holds} == {0o600}
