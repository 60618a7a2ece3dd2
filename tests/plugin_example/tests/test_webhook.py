"""Contract of every tracker, with a server that stores its requests."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import ClassVar
from urllib.error import HTTPError

import pytest
from menvae_example.webhook import Webhook

from menvae.conformance import TrackerConformance
from menvae.tracking.local import LocalLog
from menvae.tracking.tracker import TrackerContext, TrackingSettings

MESSAGES = []


class Keep(BaseHTTPRequestHandler):
    def do_POST(self):
        MESSAGES.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(503 if self.path.startswith("/closed") else 204)
        self.end_headers()

    def log_message(self, *_):
        """Keep quiet."""


SERVER = ThreadingHTTPServer(("127.0.0.1", 0), Keep)
Thread(target=SERVER.serve_forever, daemon=True).start()
URL = f"http://127.0.0.1:{SERVER.server_port}"


@pytest.fixture(autouse=True)
def _no_messages():
    MESSAGES.clear()


class TestWebhook(TrackerConformance):
    names = ("webhook",)
    variants: ClassVar = {"webhook": [{"url": f"{URL}/open?token=1"}]}

    def values(self, case, context):
        return [message for message in MESSAGES if message["run"] == context.run_name][-1]["metrics"]


def test_the_messages_of_a_run(tmp_path):
    context = TrackerContext(settings=TrackingSettings(), output_dir=tmp_path, run_dir=tmp_path, run_name="a_run")
    tracker = Webhook(context, url=f"{URL}/open?token=1")
    assert tracker.address == f"{URL}/open"
    tracker.start({"seed": 1}, {"host": "here"}, LocalLog(tmp_path))
    tracker.log(1, {"loss": 2.0}, {})
    tracker.log_artifacts(["report.html"])
    assert tracker.finish("FINISHED", {"state": "finished"})
    common = {"run": "a_run", "sweep": None, "params": {"seed": 1}, "datasets": []}
    assert [
        {**common, "status": "RUNNING", "tags": {"host": "here"}, "metrics": {}, "artifacts": []},
        {
            **common,
            "status": "FINISHED",
            "tags": {"host": "here", "state": "finished"},
            "metrics": {"loss": 2.0},
            "artifacts": ["report.html"],
        },
    ] == MESSAGES


def test_an_address_that_refuses_is_no_success(tmp_path):
    context = TrackerContext(settings=TrackingSettings(), output_dir=tmp_path, run_dir=tmp_path, run_name="a_run")
    tracker = Webhook(context, url=f"{URL}/closed")
    with pytest.raises(HTTPError):
        tracker.start({}, {}, LocalLog(tmp_path))
