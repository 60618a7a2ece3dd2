"""A real MLflow server on PostgreSQL, as the development cluster starts it, which can be killed and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

_DEV_CLUSTER = Path(__file__).parents[1] / "launchers" / "dev_cluster"


class TrackingServer:
    """``launchers/dev_cluster/up --tracking --no-slurm`` in a directory of its own.

    Attributes:
        directory: the directory, which PostgreSQL's user can enter.
        uri: the tracking URI, once it is up.
    """

    def __init__(self, directory: Path) -> None:
        self.directory, self.uri = directory, ""

    def run(self, command: str, *options: str) -> subprocess.CompletedProcess[str]:
        """Run "up" or "down"; "up" finds the Python of the tests first."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        arguments = [str(_DEV_CLUSTER / command), "--dir", str(self.directory), *options]
        environ = {**os.environ, "PATH": path}
        return subprocess.run(arguments, env=environ, capture_output=True, text=True, timeout=300, check=False)

    def up(self) -> None:
        """Start what does not run; skips the test where it cannot run."""
        up = self.run("up", "--tracking", "--no-slurm")
        if up.returncode == 2:
            pytest.skip(up.stderr.strip())
        assert up.returncode == 0, up.stderr
        self.uri = up.stdout.splitlines()[-1].removeprefix("export MLFLOW_TRACKING_URI=")

    def pid(self) -> int:
        """Return the id of MLflow's first process, which is that of its group."""
        return int((self.directory / "run" / "mlflow.pid").read_text())

    def kill(self) -> None:
        """Kill MLflow's server and its workers at once; PostgreSQL stays."""
        os.killpg(self.pid(), signal.SIGKILL)
        deadline = time.monotonic() + 30
        while self.answers():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def answers(self) -> bool:
        """Return whether the server answers."""
        try:
            with urlopen(f"{self.uri}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Ask PostgreSQL, not the server."""
        import psycopg

        with psycopg.connect(host=str(self.directory / "postgres"), user="mlflow", dbname="mlflow") as connection:
            return connection.execute(sql, values).fetchall()
