"""Two ranks, and micro-batches, give the losses, gradients and buffers of one process on the joined batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("two_ranks.py")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)
    assert result.returncode == 0, result.stderr[-4000:]
    return result


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """What one process finds."""
    path = tmp_path_factory.mktemp("alone") / "alone.pt"
    _run([sys.executable, str(SCRIPT), str(path)])
    found: dict[str, torch.Tensor] = torch.load(path)
    return found


@pytest.mark.parametrize(
    ("launcher", "rows"),
    [(TORCHRUN, []), ([sys.executable], ["3"]), (TORCHRUN, ["3"])],
    ids=["two ranks", "micro-batches", "micro-batches of two ranks"],
)
def test_losses_gradients_and_buffers_equal_one_process(
    alone: dict[str, torch.Tensor], tmp_path: Path, launcher: list[str], rows: list[str]
) -> None:
    other = tmp_path / "other.pt"
    _run([*launcher, str(SCRIPT), str(other), *rows])
    found = torch.load(other)
    assert alone.keys() == found.keys()
    for name, value in alone.items():
        torch.testing.assert_close(
            found[name], value, rtol=1e-5, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )
        if ".grad." in name:
            assert value.abs().max() > 0, name
