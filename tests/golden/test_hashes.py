"""Run hashes and cache keys are what they were, wherever the data lie."""

from __future__ import annotations

from pathlib import Path

import pytest
from golden import hashes

REMEDY = "if that is meant: python tests/golden --write hashes; runs and caches of before are then no longer found"


@pytest.mark.parametrize("name", hashes.DATASETS)
def test_run_hash_and_cache_keys_are_what_they_were(name: str, tmp_path: Path) -> None:
    expected = hashes.stored()
    assert expected["libraries"] == hashes.LIBRARIES, (
        "cache keys hold these versions: python tests/golden --write hashes"
    )
    assert hashes.with_data(name, tmp_path) == expected["with_data"][name], REMEDY


def test_hash_of_every_configuration_is_what_it_was() -> None:
    assert hashes.of_configurations() == hashes.stored()["of_configurations"], REMEDY
