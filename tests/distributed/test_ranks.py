"""Ranks that a run starts by itself: the same result as under torchrun, stopped together, ended together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from plugins import trouble, wait_until_held, write_trouble
from runs import Started, command, environment, interrupt, only_run, start, train

TWO = ("data.num_subjects=13", "trainer.batch_size=2", "trainer.max_epochs=2", "trainer.devices=2")
FAULTS = ("raise", "die", "hang")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the term that makes trouble is."""
    return write_trouble(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def two(site: Path) -> list[str]:
    """Overrides of a run of two ranks, which fails while there is a flag file."""
    return [*TWO, *trouble(site / "flag", rank=1, step=2)]


@pytest.fixture(scope="module")
def finished(site: Path, two: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output_dir = tmp_path_factory.mktemp("ranks")  # without a cache: rank 0 prepares, and the other waits
    train(output_dir, *two, site=site)
    return output_dir


def test_own_ranks_give_what_torchrun_gives(finished: Path, site: Path, two: list[str], tmp_path: Path) -> None:
    (tmp_path / "cache").symlink_to(finished / "cache")
    program = tmp_path / "train.py"
    program.write_text("from menvae.apps.train import main\n\nif __name__ == '__main__':\n    main()\n")
    overrides = [argument for argument in command(tmp_path, *two)[3:] if argument != "trainer.devices=2"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(program)]
    ended = subprocess.run(
        [*torchrun, *overrides], env=environment(site=site), check=True, capture_output=True, text=True
    )
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
    brats = ["data=brats", f"data.root={tmp_path / 'empty'}", "trainer.devices=2", f"output_dir={tmp_path}"]
    errors = Started("train", brats, environment()).ended(2)
    assert errors.count("menvae-train:") == 1, errors
    assert "Traceback" not in errors


@dataclass(frozen=True)
class Failed:
    """A run of two ranks of which one has failed.

    Attributes:
        output_dir: of the run.
        ranks: their process ids.
        errors: what it has told.
        seconds: from the fault to its end.
    """

    output_dir: Path
    ranks: list[int]
    errors: str
    seconds: float


@pytest.fixture(scope="module")
def failed(finished: Path, site: Path, two: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Failed]:
    """One run for each fault; they fail side by side, because the grace of the ranks beside them is mostly waiting.

    A rank that hangs is no failure by itself: what ends it here is a signal to the rank beside it.
    """
    folders = {fault: tmp_path_factory.mktemp(fault) for fault in FAULTS}
    flags = {fault: site / "flag" if fault == "raise" else folder / "flag" for fault, folder in folders.items()}
    processes = {}
    for fault, folder in folders.items():
        (folder / "cache").symlink_to(finished / "cache")
        flags[fault].write_text(fault)
        own = two if fault == "raise" else [*TWO, *trouble(flags[fault], rank=1, step=2)]
        processes[fault] = start(folder, *own, site=site)
    ranks = {fault: _ranks_of(process) for fault, process in processes.items()}
    wait_until_held(flags["hang"], processes["hang"])
    os.kill(ranks["hang"][0], signal.SIGKILL)
    found = {}
    for fault, process in processes.items():
        errors = process.ended(1, timeout=120)
        seconds = time.time() - flags[fault].with_suffix(".waiting").stat().st_mtime
        found[fault] = Failed(folders[fault], ranks[fault], errors, seconds)
    flags["raise"].unlink()
    return found


@pytest.mark.parametrize("fault", FAULTS)
def test_a_rank_that_fails_ends_the_other_within_a_minute(failed: dict[str, Failed], fault: str) -> None:
    run = failed[fault]
    assert run.seconds < 60
    assert not any(Path(f"/proc/{rank}").exists() for rank in run.ranks)
    if fault == "raise":
        assert "ZeroDivisionError: a fault of the trouble term" in run.errors
        assert "rank 1 of 2" in (only_run(run.output_dir) / "error.txt").read_text()


def test_a_run_of_two_ranks_that_failed_and_was_stopped_ends_like_an_uninterrupted_one(
    finished: Path, failed: dict[str, Failed], site: Path, two: list[str]
) -> None:
    output_dir = failed["raise"].output_dir
    for number in (signal.SIGTERM, signal.SIGINT):
        rest = interrupt(output_dir, *two, after=" run ", number=number, site=site)
        assert rest.count("run the same command again to resume") == 1, rest
    train(output_dir, *two, site=site)
    assert only_run(output_dir).name == only_run(finished).name
    assert (only_run(output_dir) / "metrics.jsonl").read_bytes() == (only_run(finished) / "metrics.jsonl").read_bytes()


def _ranks_of(process: Started) -> list[int]:
    while True:
        found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False).stdout
        if len(found.split()) == 2:
            return [int(number) for number in found.split()]
        assert process.poll() is None
        time.sleep(0.1)
