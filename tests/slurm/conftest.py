"""A real SLURM on this machine, for the tests of this folder."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

DEV_CLUSTER = Path(__file__).parents[2] / "launchers" / "dev_cluster"


@pytest.fixture(scope="session")
def dev_cluster() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function: "up" or "down", a directory, further options -> what the command did."""

    def run(command: str, directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
        arguments = [str(DEV_CLUSTER / command), "--dir", str(directory), *options]
        return subprocess.run(arguments, capture_output=True, text=True, timeout=180, check=False)

    return run


@pytest.fixture(scope="session")
def short_directory() -> Iterator[Path]:
    """Yield a folder whose path leaves room for those of sockets, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="menvae-") as path:
        yield Path(path).resolve()


@pytest.fixture(scope="session")
def cluster(
    dev_cluster: Callable[..., subprocess.CompletedProcess[str]], short_directory: Path
) -> Iterator[dict[str, str]]:
    """Yield the environment in which SLURM's commands reach a development cluster, which ends with the tests."""
    directory = short_directory / "cluster"
    try:
        up = dev_cluster("up", directory)
        if up.returncode == 2:
            pytest.skip(up.stderr.strip())
        assert up.returncode == 0, up.stderr
        name, value = up.stdout.splitlines()[-1].removeprefix("export ").split("=", 1)
        ours = {key: text for key, text in os.environ.items() if not key.startswith(("SLURM_", "SBATCH_"))}
        yield {**ours, name: value}
    finally:
        dev_cluster("down", directory, "--purge")
