"""Batch normalisation of two ranks is that of one process on the joined batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ranks import run_script

SCRIPT = Path(__file__).with_name("batch_norm.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what one process finds and what two ranks find."""
    folder = tmp_path_factory.mktemp("batch_norm")
    for num_ranks, name in ((1, "alone"), (2, "together")):
        run_script(SCRIPT, str(folder / name), num_ranks=num_ranks)
    return folder


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_losses_gradients_and_statistics_equal_one_process(folder: Path, reduction: str) -> None:
    expected = torch.load(folder / f"alone.{reduction}.0")
    assert any(name.endswith("running_var") for name in expected)
    for rank in (0, 1):
        found = torch.load(folder / f"together.{reduction}.{rank}")
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(
                found[name], value, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
            )
