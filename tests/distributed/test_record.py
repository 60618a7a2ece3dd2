"""Two ranks measure what one process measures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ranks import run_script

SCRIPT = Path(__file__).with_name("record.py")


def test_every_metric_of_two_ranks_is_that_of_one_process(tmp_path: Path) -> None:
    for num_ranks, name in ((1, "alone"), (2, "together")):
        run_script(SCRIPT, str(tmp_path / name), num_ranks=num_ranks)
    expected = json.loads((tmp_path / "alone.0").read_text())
    assert len([value for value in expected.values() if value is not None]) > 30
    for rank in (0, 1):
        found = json.loads((tmp_path / f"together.{rank}").read_text())
        assert found == {
            key: value if value is None else pytest.approx(value, rel=1e-6) for key, value in expected.items()
        }
