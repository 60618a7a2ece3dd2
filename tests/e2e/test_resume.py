"""Killed or asked to stop at random moments: the repeated command ends where an uninterrupted one does, bit for bit."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from runs import TRACKED, mlflow_points, only_run, start, train

AUGMENTED = ("augmentation.flip=0.5", "augmentation.max_shift=[2,2,2]", "augmentation.contrast=0.1")
MEMORIES = (  # so small that they are full, and forget, before a run of six epochs ends
    "loss.terms.dcor.buffer_size=16",
    "loss.terms.dcor.gradient_scale=all_rows",
    *("+term@loss.terms.hsic=hsic", "loss.terms.hsic.buffer_size=16", "+loss.lambda_hsic=1"),
)
SIX = (TRACKED, *AUGMENTED, *MEMORIES, "trainer.max_epochs=6", "trainer.batch_size=1")  # of seven steps each
EXEMPT = ("time/", "system/")


def weights(run: Path) -> dict[str, torch.Tensor]:
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    return {**content["model"], **{f"objective.{name}": value for name, value in content["objective"].items()}}


def compared(points: set[tuple[str, int, float]]) -> set[tuple[str, int, float]]:
    return {point for point in points if not point[0].startswith(EXEMPT)}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, prepared_cache: Path) -> Path:
    """An output folder with a finished run, and one of a single epoch."""
    output_dir = tmp_path_factory.mktemp("uninterrupted")
    (output_dir / "cache").symlink_to(prepared_cache)
    train(output_dir, "trainer.max_epochs=1", "name=warm")
    train(output_dir, *SIX)
    return output_dir


def _end_after(output_dir: Path, num_epochs: int, seconds: float, number: signal.Signals) -> None:
    """Begin or go on with the run, and send it a signal some seconds after its log has that many epochs."""
    process = start(output_dir, *SIX)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert process.poll() is None, "the run ended before it was killed: the test did not test anything"
        logs = list(output_dir.glob("runs/*/metrics.jsonl"))
        if (output_dir / "runs").is_dir() and (num_epochs == 0 or (logs and _num_lines(logs[0]) >= num_epochs)):
            break
        time.sleep(0.002)
    time.sleep(seconds)
    process.send_signal(number)
    assert process.wait() == (-9 if number == signal.SIGKILL else 75)


def _num_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n")


SIGNALS = {
    "killed or stopped": [signal.SIGKILL, signal.SIGTERM, signal.SIGKILL],
    "stopped": [signal.SIGINT, signal.SIGUSR2, signal.SIGTERM],
}


@pytest.mark.parametrize("how", SIGNALS)
def test_run_in_pieces_ends_like_an_uninterrupted_one(uninterrupted: Path, tmp_path: Path, how: str) -> None:
    expected_dir = uninterrupted
    (tmp_path / "cache").symlink_to(expected_dir / "cache")
    moments = random.Random(how)
    for number, num_epochs in zip(SIGNALS[how], sorted(moments.sample(range(6), 3)), strict=True):
        _end_after(tmp_path, num_epochs, moments.uniform(0.0, 0.15), number)
    train(tmp_path, *SIX)

    (expected,) = [run for run in (expected_dir / "runs").iterdir() if not run.name.startswith("warm")]
    resumed = only_run(tmp_path)
    assert resumed.name == expected.name
    assert (resumed / "metrics.jsonl").read_bytes() == (expected / "metrics.jsonl").read_bytes()
    assert (resumed / "gates.json").read_bytes() == (expected / "gates.json").read_bytes()
    wanted, got = weights(expected), weights(resumed)
    assert wanted.keys() == got.keys()
    for name, value in wanted.items():
        assert torch.equal(value, got[name]), name

    (resumed_points,) = mlflow_points(tmp_path).values()
    everything = mlflow_points(expected_dir)
    run_id = next(run_id for run_id, points in everything.items() if max(step for _, step, _ in points) == 6)
    assert compared(resumed_points) == compared(everything[run_id])


def test_a_finished_run_is_reported_not_trained(uninterrupted: Path) -> None:
    output_dir = uninterrupted
    before = sorted(path.name for path in (output_dir / "runs").iterdir())
    result = train(output_dir, *SIX)
    assert "nothing to train" in result.stderr
    assert "vol_r2" in result.stdout
    assert sorted(path.name for path in (output_dir / "runs").iterdir()) == before


def test_resume_never_begins_another_run(uninterrupted: Path) -> None:
    output_dir = uninterrupted
    train(output_dir, "trainer.max_epochs=1", "name=warm", "trainer.resume=never")
    names = sorted(path.name for path in (output_dir / "runs").iterdir() if path.name.startswith("warm"))
    assert len(names) == 2
    assert names[1] == f"{names[0]}_2"


def test_continuing_from_a_checkpoint(uninterrupted: Path) -> None:
    output_dir = uninterrupted
    train(output_dir, "trainer.max_epochs=2", "name=short", "trainer.keep_optimizer=true", "curriculum.scale=false")
    (short,) = [run for run in (output_dir / "runs").iterdir() if run.name.startswith("short")]
    checkpoint = short / "checkpoints" / "last.ckpt"
    result = train(output_dir, "trainer.max_epochs=3", "name=long", f"trainer.resume={checkpoint}")
    assert "resuming after epoch 2" in result.stderr
    (long,) = [run for run in (output_dir / "runs").iterdir() if run.name.startswith("long")]
    assert (long / "checkpoints" / "best.ckpt").is_file()
    assert (long / "metrics.jsonl").read_text().startswith('{"epoch": 3,')
    fresh = train(output_dir, "trainer.max_epochs=3", "name=long", "curriculum.scale=false")
    assert "nothing to train" not in fresh.stderr, "a run that begins elsewhere is another run"
    pruned = next(run for run in (output_dir / "runs").iterdir() if run.name.startswith("warm"))
    refused = train(output_dir, "name=refused", f"trainer.resume={pruned / 'checkpoints' / 'last.ckpt'}", code=2)
    assert "has no optimiser state" in refused.stderr
    for key, value, was in (
        ("modalities", "t1n,t1c,t2f,t2w", "t1c, t1n, t2f, t2w"),
        ("spacing_mm", "8,8,8", "10.0, 10"),
    ):
        other = train(output_dir, f"data.{key}=[{value}]", "name=refused", f"trainer.resume={checkpoint}", code=2)
        assert f"was trained with data.{key} " in other.stderr
        assert was in other.stderr


def test_mlflow_gets_a_run_that_was_killed_after_its_last_epoch(prepared_cache: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").symlink_to(prepared_cache)
    overrides = ("trainer.max_epochs=1", "trainer.keep_optimizer=true")
    train(tmp_path, *overrides)
    (only_run(tmp_path) / "status.json").write_text('{"state": "running"}')  # as a kill in the evaluation leaves it
    resumed = train(tmp_path, *overrides, TRACKED)
    assert "resuming after epoch 1 and 0 steps" in resumed.stderr
    (points,) = mlflow_points(tmp_path).values()
    assert {"val_epoch/loss", "gate/passed"} <= {key for key, _, _ in points}
    assert json.loads((only_run(tmp_path) / "status.json").read_text())["trackers"] == ["mlflow"]


def test_mlflow_gets_a_run_that_ended_while_the_store_was_away(uninterrupted: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").symlink_to(uninterrupted / "cache")
    overrides = (TRACKED, "trainer.max_epochs=1", "name=away")
    first = train(tmp_path, *overrides, "tracking.uri=http://127.0.0.1:9")
    assert "this run is incomplete in MLflow store" in first.stderr
    second = train(tmp_path, *overrides)
    assert "nothing to train" in second.stderr
    (points,) = mlflow_points(tmp_path).values()
    keys = {key for key, _, _ in points}
    assert {"val_epoch/loss", "gate/passed", "time/train_s"} <= keys
    stored = [path.name for path in (tmp_path / "mlartifacts").rglob("*") if path.is_file()]
    assert {"report.html", "best.ckpt", "metrics.jsonl"} <= set(stored)
    third = train(tmp_path, *overrides)
    assert len(mlflow_points(tmp_path)) == 1
    assert "nothing to train" in third.stderr
