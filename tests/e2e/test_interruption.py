"""What ends a run early, beside what tests/e2e/test_resume.py does in the middle of training."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from plugins import trouble, wait_until_held, write_trouble
from runs import TRACKED, interrupt, mlflow_points, only_run, start, train

LONG = "trainer.max_epochs=1000"


def test_time_limit(prepared_cache: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").symlink_to(prepared_cache)
    moments = []
    for _ in range(2):
        stopped = train(tmp_path, LONG, TRACKED, "trainer.time_limit_min=0.1", code=75).stderr
        assert "Traceback" not in stopped
        moment = re.search(r"stopped by time limit of 0.1 min in epoch (\d+) after step (\d+) of 2", stopped)
        assert moment, stopped
        moments.append([int(number) for number in moment.groups()])
    assert moments[0] < moments[1]
    status = json.loads((only_run(tmp_path) / "status.json").read_text())
    assert status["state"] == "interrupted"
    assert len(mlflow_points(tmp_path)) == 1


def test_two_times_ctrl_c(prepared_cache: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").symlink_to(prepared_cache)
    flag = tmp_path / "flag"
    flag.write_text("hang")
    overrides = [LONG, *trouble(flag, step=3)]
    process = start(tmp_path, *overrides, site=write_trouble(tmp_path / "site"))
    wait_until_held(flag, process)
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=3)
    process.send_signal(signal.SIGINT)
    rest = process.output.read()
    assert process.wait(timeout=60) == 75, rest
    assert "stopped at once" in rest
    assert "Traceback" not in rest


def test_a_failed_run_says_why_and_can_be_repeated(prepared_cache: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").symlink_to(prepared_cache)
    flag = tmp_path / "flag"
    site = write_trouble(tmp_path / "site")
    for fault, reason in (("raise", "ZeroDivisionError: a fault of the trouble term"), ("memory", "out of memory")):
        flag.write_text(fault)
        train(tmp_path, *trouble(flag, step=3), f"name={fault}", site=site, code=1)
        (run,) = (tmp_path / "runs").glob(f"{fault}_*")
        status = json.loads((run / "status.json").read_text())
        assert (status["state"], status["reason"]) == ("failed", reason)
        assert "Traceback" in (run / "error.txt").read_text()
    flag.unlink()
    train(tmp_path, *trouble(flag, step=3), "name=raise", site=site)


def test_a_sweep_that_is_stopped_does_not_begin_its_next_point(prepared_cache: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").symlink_to(prepared_cache)
    overrides = ["-m", LONG, "loss.lambda_dcor=0,5"]
    interrupt(tmp_path, *overrides, after="epoch    1/1000", number=signal.SIGTERM)
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_a_run_directory_that_is_removed_while_it_trains(prepared_cache: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").symlink_to(prepared_cache)
    process = start(tmp_path, LONG)
    while not list((tmp_path / "runs").glob("*/metrics.jsonl")):
        assert process.poll() is None
        time.sleep(0.05)
    shutil.rmtree(only_run(tmp_path), ignore_errors=True)
    errors = process.ended(2, timeout=120)
    assert "was removed during the run; the same command trains the run again" in errors.splitlines()[-1]
    assert "Traceback" not in errors
    assert not list((tmp_path / "runs").glob("*/status.json"))
