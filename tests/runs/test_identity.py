"""The hash that identifies a run."""

from __future__ import annotations

import copy

from menvae.runs.identity import run_hash


def test_more_ranks_and_another_start_are_other_runs() -> None:
    config = {"seed": 1, "trainer": {"devices": None}}
    assert run_hash(config, "d", "t") == run_hash({**config, "trainer": {"devices": 2}}, "d", "t", num_ranks=1)
    hashes = {run_hash(config, "d", "t", ranks, start) for ranks in (1, 2, 4) for start in ("", "weights")}
    assert len(hashes) == 6


def test_a_hash_leaves_the_configuration_as_it_is() -> None:
    config = {"seed": 1, "output_dir": "/a", "trainer": {"devices": 2, "max_epochs": 3.0}}
    before = copy.deepcopy(config)
    run_hash(config, "d", "t")
    assert config == before
