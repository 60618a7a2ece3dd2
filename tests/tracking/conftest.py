"""A tracking server for the tests of this folder."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tracking_server import TrackingServer


@pytest.fixture(scope="session")
def tracking_server() -> Iterator[TrackingServer]:
    """Yield MLflow's server on PostgreSQL, which ends with the tests."""
    with tempfile.TemporaryDirectory(prefix="menvae-") as folder:  # a short path, for the socket of PostgreSQL
        Path(folder).chmod(0o755)  # root's tests run PostgreSQL as another user
        server = TrackingServer(Path(folder).resolve() / "server")
        try:
            server.up()
            yield server
        finally:
            server.run("down", "--purge")
