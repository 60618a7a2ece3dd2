#!/usr/bin/env bash
# mlflow 3.17.2, MlflowClient.log_text of two clients in one process
#
# Behaviour: the artifact repository of a run is cached for the whole process under the run's id alone. After a store
#   was copied, a client of the copy writes the artifacts of a run into the original if a client of the original has
#   written some before; its parameters, metrics and tags go into the copy.
# Expected: a client talks to the tracking URI that it was made with. A process that mirrors a store, or goes on after
#   its server has moved, changes the old store silently, or fails because the old server is gone.
# Seen: b.txt logged through the client of the copy: original ['a.txt', 'b.txt'], copy ['a.txt']; c.txt logged by a
#   new
#   process: copy ['a.txt', 'c.txt']
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet mlflow==3.17.2
cd "$folder"
PATH="$folder/venv/bin:$PATH" MLFLOW_DISABLE_TELEMETRY=true python - <<'PYTHON'
import contextlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from mlflow import MlflowClient


@contextlib.contextmanager
def served(name):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    store = ("--backend-store-uri", f"sqlite:///{name}/mlflow.db", "--artifacts-destination", f"{name}/artifacts")
    command = ("mlflow", "server", *store, "--host", "127.0.0.1", "--port", str(port), "--workers", "1")
    with open(f"{name}.log", "w") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        try:
            for _ in range(240):
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health")
                    break
                time.sleep(0.5)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def artifacts(name):
    return sorted(path.name for path in Path(name, "artifacts").rglob("*.txt"))


Path("original").mkdir()
with served("original") as uri:
    original = MlflowClient(uri)
    run = original.create_run(original.create_experiment("example")).info.run_id
    original.log_text(run, "a", "a.txt")
    shutil.copytree("original", "copy")
    with served("copy") as uri_of_copy:
        copy = MlflowClient(uri_of_copy)
        copy.set_tag(run, "example", "b")
        copy.log_text(run, "b", "b.txt")
        print("b.txt:", "original", artifacts("original"), "copy", artifacts("copy"))
        assert "example" in copy.get_run(run).data.tags, "the tag is in the copy"
        assert "example" not in original.get_run(run).data.tags, "the tag is not in the original"
        assert artifacts("original") == ["a.txt", "b.txt"], "changed: b.txt is not in the original"
        assert artifacts("copy") == ["a.txt"], "changed: b.txt is in the copy"

        new = f"import mlflow; mlflow.MlflowClient({uri_of_copy!r}).log_text({run!r}, 'c', 'c.txt')"
        subprocess.run([sys.executable, "-c", new], check=True)
        print("c.txt of a new process:", "copy", artifacts("copy"))
        assert artifacts("copy") == ["a.txt", "c.txt"]
PYTHON
