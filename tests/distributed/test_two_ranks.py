"""Two ranks, and micro-batches, give the losses, gradients and buffers of one process on the joined batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ranks import run_script

SCRIPT = Path(__file__).with_name("two_ranks.py")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """What one process finds."""
    path = tmp_path_factory.mktemp("alone") / "alone.pt"
    run_script(SCRIPT, str(path))
    found: dict[str, torch.Tensor] = torch.load(path)
    return found


@pytest.mark.parametrize(
    ("num_ranks", "rows"),
    [(2, []), (1, ["3"]), (2, ["3"])],
    ids=["two ranks", "micro-batches", "micro-batches of two ranks"],
)
def test_losses_gradients_and_buffers_equal_one_process(
    alone: dict[str, torch.Tensor], tmp_path: Path, num_ranks: int, rows: list[str]
) -> None:
    other = tmp_path / "other.pt"
    run_script(SCRIPT, str(other), *rows, num_ranks=num_ranks)
    found = torch.load(other)
    assert alone.keys() == found.keys()
    for name, value in alone.items():
        torch.testing.assert_close(
            found[name], value, rtol=1e-5, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )
        if ".grad." in name:
            assert value.abs().max() > 0, name
