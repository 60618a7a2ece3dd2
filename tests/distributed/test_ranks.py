"""Ranks that a run starts by itself: the same result as under torchrun, stopped together, ended together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from plugins import trouble, wait_until_held, write_trouble
from runs import Started, command, environment, interrupt, only_run, start, train

TWO = ("data.num_subjects=13", "trainer.batch_size=2", "trainer.max_epochs=2", "trainer.devices=2")


def rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output_dir = tmp_path_factory.mktemp("ranks")  # without a cache: rank 0 prepares, and the other waits
    train(output_dir, *TWO)
    return output_dir


def test_own_ranks_give_what_torchrun_gives(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").symlink_to(finished / "cache")
    program = tmp_path / "train.py"
    program.write_text("from menvae.apps.train import main\n\nif __name__ == '__main__':\n    main()\n")
    overrides = [argument for argument in command(tmp_path, *TWO)[3:] if argument != "trainer.devices=2"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(program)]
    ended = subprocess.run([*torchrun, *overrides], env=environment(), check=True, capture_output=True, text=True)
    assert "Grad strides do not match" not in ended.stderr
    mine, theirs = only_run(finished), only_run(tmp_path)
    assert mine.name == theirs.name
    assert (mine / "metrics.jsonl").read_bytes() == (theirs / "metrics.jsonl").read_bytes()
    assert json.loads((mine / "environment.json").read_text())["num_ranks"] == 2
    assert (theirs / "report.html").is_file()


def test_a_number_of_processes_that_was_not_started_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    refused = train(tmp_path, *TWO, code=2)
    assert "trainer.devices=2, but 1 processes were launched" in refused.stderr


def test_wrong_input_is_told_once(tmp_path: Path) -> None:
    refused = train(tmp_path, *TWO, "data.root=/nowhere", "data=brats", code=2)
    assert refused.stderr.count("menvae-train:") == 1, refused.stderr


def test_wrong_data_are_told_once(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    overrides = [override for override in TWO if not override.startswith("data.")]
    brats = ["data=brats", f"data.root={tmp_path / 'empty'}", "trainer.devices=2", "trainer.max_epochs=2"]
    program = command(tmp_path)[:3]
    refused = subprocess.run(
        [*program, *overrides[:2], *brats[:2], "trainer.devices=2", f"output_dir={tmp_path}"],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 2, refused.stderr
    assert refused.stderr.count("menvae-train:") == 1, refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_stopped_run_of_two_ranks_ends_like_an_uninterrupted_one(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").symlink_to(finished / "cache")
    for number in (signal.SIGTERM, signal.SIGINT):
        rest = interrupt(tmp_path, *TWO, after=" run ", number=number)
        assert rest.count("run the same command again to resume") == 1, rest
    train(tmp_path, *TWO)
    assert only_run(tmp_path).name == only_run(finished).name
    assert (only_run(tmp_path) / "metrics.jsonl").read_bytes() == (only_run(finished) / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("fault", ["raise", "die", "hang"])
def test_a_rank_that_fails_ends_the_other_within_a_minute(finished: Path, tmp_path: Path, fault: str) -> None:
    """A rank that hangs is no failure by itself: what ends it here is a signal to the rank beside it."""
    (tmp_path / "cache").symlink_to(finished / "cache")
    flag = tmp_path / "flag"
    flag.write_text(fault)
    site = write_trouble(tmp_path / "site")
    overrides = [*TWO, *trouble(flag, rank=1, step=2)]
    process = start(tmp_path, *overrides, site=site)
    ranks = _ranks_of(process)
    if fault == "hang":
        wait_until_held(flag, process)
        os.kill(ranks[0], signal.SIGKILL)
    started = time.monotonic()
    errors = process.ended(1, timeout=120)
    assert time.monotonic() - started < 60
    if fault == "raise":
        assert "ZeroDivisionError: a fault of the trouble term" in errors
        assert "rank 1 of 2" in (only_run(tmp_path) / "error.txt").read_text()
    assert not any(Path(f"/proc/{rank}").exists() for rank in ranks)
    if fault == "raise":
        flag.unlink()
        train(tmp_path, *overrides, site=site)


def _ranks_of(process: Started) -> list[int]:
    while True:
        found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False).stdout
        if len(found.split()) == 2:
            return [int(number) for number in found.split()]
        assert process.poll() is None
        time.sleep(0.1)
