"""20 steps of two ranks are those of one process with a batch twice as large, for every registered term."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from menvae.registry import parts_of

SCRIPT = Path(__file__).with_name("exact.py")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
Results = dict[str, dict[str, Tensor]]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Results]:
    folder = tmp_path_factory.mktemp("exact")
    found = []
    for launcher, name in (([sys.executable], "alone"), (TORCHRUN, "together")):
        command = [*launcher, str(SCRIPT), str(folder / name)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)
        assert result.returncode == 0, result.stderr[-4000:]
        found.append(torch.load(folder / name))
    return found[0], found[1]


@pytest.mark.parametrize("term", sorted(part.name for part in parts_of("term") if part.origin == "menvae"))
def test_weights_memories_and_means_equal_one_process(term: str, both: tuple[Results, Results]) -> None:
    expected, found = (results[term] for results in both)
    assert expected.keys() == found.keys()
    assert len([name for name in expected if name.endswith("/train_epoch/loss")]) == 4
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=5e-4, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
