"""The hash that identifies a run."""

from __future__ import annotations

from menvae.runs.identity import run_hash


def test_more_ranks_and_another_start_are_other_runs() -> None:
    config = {"seed": 1, "trainer": {"devices": None}}
    assert run_hash(config, "d", "t") == run_hash({**config, "trainer": {"devices": 2}}, "d", "t", num_ranks=1)
    hashes = {run_hash(config, "d", "t", ranks, start) for ranks in (1, 2, 4) for start in ("", "weights")}
    assert len(hashes) == 6
