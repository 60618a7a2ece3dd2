"""Five steps of every experiment are what they were."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from golden import losses


@pytest.fixture(scope="module")
def cache(prepared_cache: Path) -> Path:
    losses.fill_cache(prepared_cache)
    return prepared_cache


@pytest.mark.parametrize("name", losses.EXPERIMENTS)
def test_five_steps_are_what_they_were(name: str, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").symlink_to(cache)
    found, tensors = losses.measured(name, tmp_path)
    table = losses.differences(name, losses.stored(name), found)
    assert not table, "\n".join(["see tests/golden/README.md", *table])
    content = json.loads(losses.TENSORS.read_text())
    if name == losses.DEFAULT:
        assert tensors == content["default"]
    assert losses.digest(tensors) == content["digests"][name], (
        "names, types or shapes of the checkpoint's tensors changed: old checkpoints cannot be read; "
        "python tests/golden --write losses accepts it"
    )


def test_every_stored_experiment_exists() -> None:
    assert {path.stem for path in losses.FOLDER.glob("*.json")} == set(losses.EXPERIMENTS)


@pytest.mark.parametrize(
    ("row", "key", "factor", "lines"),
    [("step 1", "loss", 1.001, 2), ("step 5", "loss", 1.01, 2), ("step 5", "loss", 1.0001, 0)],
)
def test_a_value_that_moved_is_in_the_table(row: str, key: str, factor: float, lines: int) -> None:
    expected, found = losses.stored("default"), losses.stored("default")
    before = found[row][key]
    assert before is not None
    found[row][key] = before * factor
    assert len(losses.differences("default", expected, found)) == lines
    assert len(losses.differences("default", expected, found, exact=True)) == 2


def test_a_scalar_that_is_gone_is_in_the_table() -> None:
    found = losses.stored("default")
    del found["step 3"]["dcor"]
    assert "absent" in losses.differences("default", losses.stored("default"), found)[1]
