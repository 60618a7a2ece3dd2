"""Batch normalisation of two ranks is that of one process on the joined batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("batch_norm.py")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_losses_gradients_and_statistics_equal_one_process(tmp_path: Path, reduction: str) -> None:
    for launcher, name in (([sys.executable], "alone"), (TORCHRUN, "together")):
        command = [*launcher, str(SCRIPT), str(tmp_path / name), reduction]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)
        assert result.returncode == 0, result.stderr[-4000:]
    expected = torch.load(tmp_path / "alone.0")
    assert any(name.endswith("running_var") for name in expected)
    for rank in (0, 1):
        found = torch.load(tmp_path / f"together.{rank}")
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(
                found[name], value, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
            )
