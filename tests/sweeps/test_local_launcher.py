"""Sweeps in processes of this machine: points that fail, and launching processes that are stopped or killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from machines import TWO_AT_A_TIME, Machine
from runs import TRACKED, Started, finished_sweep_in_mlflow, menvae_sweep, train

from menvae.errors import UserError
from menvae.sweeps.runners import Fate
from menvae.sweeps.runners.local import LocalRunner

ONE_RANK = {"trainer": {"devices": None}}
pytestmark = pytest.mark.usefixtures("forked_jobs")


@pytest.fixture
def machine(prepared_cache: Path, tmp_path: Path) -> Iterator[Machine]:
    with Machine.among(tmp_path, prepared_cache, TWO_AT_A_TIME) as machine:
        yield machine


def _num_jobs(launching: Started) -> int:
    """Return how many children train now."""
    found = subprocess.run(
        ["pgrep", "-c", "-P", str(launching.pid), "-f", "menvae.apps.job"], capture_output=True, text=True, check=False
    )
    return int(found.stdout)


def test_a_point_that_raises_costs_no_other(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine.flags / "1").write_text("raise")
    with monkeypatch.context() as patch:
        patch.setattr("runs.jobs_fork", False)  # these import everything themselves, as those of users do
        launching = machine.start("loss.lambda_dcor=1,2,3", "trainer.max_epochs=1", TRACKED)
    num_jobs = {0}
    while launching.poll() is None:
        num_jobs.add(_num_jobs(launching))
        time.sleep(0.2)
    output = launching.ended(1)
    assert num_jobs == {0, 1, 2}, "two points at a time, and no more"

    assert machine.fates() == {"1": "failed", "2": "finished", "3": "finished"}, output
    failed = machine.statuses()["1"]
    assert failed.reason == "ZeroDivisionError: a fault of the trouble term"
    for file in (Path(failed.point.submissions[-1].log), machine.run_dir("1") / "error.txt"):
        text = file.read_text()
        assert "Traceback (most recent call last)" in text
        assert "in forward" in text
        assert "ZeroDivisionError: a fault of the trouble term" in text
    told = menvae_sweep(machine.output_dir, "status", code=1, site=machine.site).splitlines()
    (row,) = [line for line in told if "loss.lambda_dcor=1 " in line]
    assert "failed" in row
    assert "ZeroDivisionError: a fault of the trouble term" in row
    assert told[-1] == "1 failed, 2 finished"

    (machine.flags / "1").unlink()
    assert "1 point: 1 failed; 1 to run" in menvae_sweep(machine.output_dir, "retry", site=machine.site)
    assert set(machine.fates().values()) == {Fate.FINISHED}
    assert machine.num_submissions() == {"1": 2, "2": 1, "3": 1}
    plain = train(machine.output_dir, *machine.trouble, "loss.lambda_dcor=2", "trainer.max_epochs=1", site=machine.site)
    assert "nothing to train" in plain.stderr
    assert str(machine.run_dir("2")) in plain.stderr
    assert len(list((machine.output_dir / "runs").iterdir())) == 3
    finished_sweep_in_mlflow(machine.output_dir, 3)


def test_launching_processes_that_end_early_lose_nothing(machine: Machine) -> None:
    """A sweep whose points have two ranks: its launching process is killed, then stopped, and then left alone."""
    overrides = ("loss.lambda_dcor=1,2", "trainer.devices=2")
    machine.hold("2")
    launching = machine.start(*overrides)
    machine.wait_until_held("2")
    refused = machine.launch(*overrides, code=2)
    assert f"is being launched by process {launching.pid} on " in refused
    assert "Traceback" not in refused
    machine.wait_for(lambda: machine.fates()["1"] == Fate.FINISHED)
    assert machine.fates()["2"] == Fate.RUNNING
    launching.kill()
    launching.wait()  # the kernel has told the children by then
    machine.let_go("2")
    machine.wait_for(lambda: machine.fates()["2"] != Fate.RUNNING)
    _check_stopped(machine, "step 1 of 2")

    machine.hold("2")
    again = machine.start(*overrides)
    machine.wait_until_held("2")
    os.killpg(again.pid, signal.SIGINT)
    time.sleep(3.0)  # it looks every half second, and passes the signal on
    os.killpg(again.pid, signal.SIGTERM)  # of no account, since it obeys already
    machine.let_go("2")
    stopped = again.ended(75)
    assert "stopped by SIGINT; run the same command again to resume" in stopped
    assert "Traceback" not in stopped
    _check_stopped(machine, "step 2 of 2")

    assert "2 points: 1 finished, 1 interrupted; 1 to run" in machine.launch(*overrides)
    assert machine.fates() == {"1": "finished", "2": "finished"}
    assert machine.num_submissions() == {"1": 1, "2": 3}
    rows = [json.loads(line) for line in (machine.run_dir("2") / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert json.loads((machine.run_dir("2") / "environment.json").read_text())["num_ranks"] == 2


def _check_stopped(machine: Machine, step: str) -> None:
    """Point 1 is finished, and point 2 was asked to stop and has written a checkpoint after a step of its epoch 1."""
    assert machine.fates() == {"1": "finished", "2": "interrupted"}
    assert machine.statuses()["2"].reason == f"SIGTERM in epoch 1 after {step}"
    assert machine.outcome("2") == 75
    assert (machine.run_dir("2") / "checkpoints" / "last.ckpt").is_file()


@pytest.mark.parametrize(
    ("launcher", "number", "smallest"), [("local", "num_parallel=0", "1"), ("slurm", "poll_s=-1.0", "0.1")]
)
def test_numbers_that_cannot_be_are_refused(tmp_path: Path, launcher: str, number: str, smallest: str) -> None:
    override = f"hydra.launcher.{number}"
    told = train(tmp_path, "-m", "loss.lambda_dcor=1,2", f"hydra/launcher={launcher}", override, code=2).stderr
    key, _, value = override.partition("=")
    assert told == f"menvae-train: {key}: {value} is not allowed; it should be greater than or equal to {smallest}\n"


def test_a_launcher_whose_runner_is_not_registered_is_refused(tmp_path: Path) -> None:
    told = train(tmp_path, "-m", "loss.lambda_dcor=1,2", "hydra.launcher.runner=slurn", code=2).stderr
    assert told == (
        "menvae-train: hydra.launcher.runner: 'slurn' is not registered; did you mean 'slurm'? known: local, slurm\n"
    )


def test_two_slots_are_never_idle_and_a_stop_reaches_what_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def shell(path: Path) -> list[str]:
        return ["sh", "-c", path.read_text()]

    def submit(runner: LocalRunner, scripts: dict[str, str]) -> set[str]:
        for name, script in scripts.items():
            (tmp_path / name).mkdir()
            (tmp_path / name / "job.json").write_text(script)
        return set(runner.submit({name: tmp_path / name / "job.json" for name in scripts}))

    monkeypatch.setattr("menvae.sweeps.runners.local.command", shell)
    runner = LocalRunner(num_parallel=2)
    runner.prepare(tmp_path, ONE_RANK)
    obey = "trap 'echo stopped; exit 75' TERM; echo begun; while true; do sleep 0.05; done"
    assert submit(runner, {"short": "echo begun; exit 1", "long": obey, "later": obey, "never": obey}) == {
        "short",
        "long",
    }
    deadline = time.monotonic() + 20
    while not (submitted := runner.advance()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert set(submitted) == {"later"}
    assert runner.num_open == 3
    logs = {name: tmp_path / name / "output.log" for name in ("short", "long", "later", "never")}
    while not all("begun" in logs[name].read_text() for name in ("long", "later")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert runner.advance() == {}
    runner.stop()
    assert runner.num_open == 2
    assert logs["short"].read_text() == "begun\n"
    assert logs["long"].read_text() == logs["later"].read_text() == "begun\nstopped\n"
    assert not logs["never"].exists()


def test_the_shown_log_has_whole_characters_wherever_a_read_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first job ends within a character, which the log of the next one does not continue."""
    monkeypatch.setattr("menvae.sweeps.runners.local.command", lambda path: ["sh", "-c", path.read_text()])
    runner = LocalRunner(num_parallel=1)
    runner.prepare(tmp_path, ONE_RANK)
    scripts = {
        "a": "printf 'R\\302'; while [ ! -e go ]; do sleep 0.01; done; printf '\\262 mm\\342\\202'",
        "b": "printf '\\316\\273 = 5'",
    }
    for name, script in scripts.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "job.json").write_text(script.replace("go", str(tmp_path / "go")))
    runner.submit({name: tmp_path / name / "job.json" for name in scripts})
    shown, deadline = "", time.monotonic() + 20
    while runner.num_open:
        assert time.monotonic() < deadline
        runner.advance()
        shown += capsys.readouterr().err
        if shown == "R":  # the first byte of the two-byte character has been read
            (tmp_path / "go").touch()
        time.sleep(0.02)
    assert shown == "R\N{SUPERSCRIPT TWO} mm\N{GREEK SMALL LETTER LAMDA} = 5"


def test_gpus_are_dealt_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "menvae.sweeps.runners.local.command", lambda _: ["sh", "-c", "echo GPUs $CUDA_VISIBLE_DEVICES"]
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,GPU-7,3")
    runner = LocalRunner()
    runner.prepare(tmp_path, {"trainer": {"devices": 2}})
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    runner.submit({name: tmp_path / name / "job.json" for name in ("a", "b")})
    deadline = time.monotonic() + 20
    while not all((tmp_path / name / "output.log").read_text() for name in ("a", "b")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    runner.stop()
    assert (tmp_path / "a" / "output.log").read_text() == "GPUs 0,1\n"
    assert (tmp_path / "b" / "output.log").read_text() == "GPUs GPU-7,3\n"


def test_more_gpus_than_there_are_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    with pytest.raises(UserError, match="num_parallel=2 runs with 2 GPUs each exceed the 3 GPUs"):
        LocalRunner(num_parallel=2, gpus_per_run=2).prepare(tmp_path, ONE_RANK)
