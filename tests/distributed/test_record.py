"""Two ranks measure what one process measures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("record.py")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def test_every_metric_of_two_ranks_is_that_of_one_process(tmp_path: Path) -> None:
    for launcher, name in (([sys.executable], "alone"), (TORCHRUN, "together")):
        command = [*launcher, str(SCRIPT), str(tmp_path / name)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)
        assert result.returncode == 0, result.stderr[-4000:]
    expected = json.loads((tmp_path / "alone.0").read_text())
    assert len([value for value in expected.values() if value is not None]) > 30
    for rank in (0, 1):
        found = json.loads((tmp_path / f"together.{rank}").read_text())
        assert found == {
            key: value if value is None else pytest.approx(value, rel=1e-6) for key, value in expected.items()
        }
