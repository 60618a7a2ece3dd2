"""20 steps of two ranks are those of one process with a batch twice as large, for every registered term."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ranks import run_script
from torch import Tensor

from menvae.registry import parts_of

SCRIPT = Path(__file__).with_name("exact.py")
Results = dict[str, dict[str, Tensor]]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Results]:
    folder = tmp_path_factory.mktemp("exact")
    for num_ranks in (1, 2):
        run_script(SCRIPT, str(folder / str(num_ranks)), num_ranks=num_ranks)
    return torch.load(folder / "1"), torch.load(folder / "2")


@pytest.mark.parametrize("term", sorted(part.name for part in parts_of("term") if part.origin == "menvae"))
def test_weights_memories_and_means_equal_one_process(term: str, both: tuple[Results, Results]) -> None:
    expected, found = (results[term] for results in both)
    assert expected.keys() == found.keys()
    assert len([name for name in expected if name.endswith("/train_epoch/loss")]) == 4
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=5e-4, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
