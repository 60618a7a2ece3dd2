"""Kill -9 at random moments: the repeated command ends where an uninterrupted one does, bit for bit."""

from __future__ import annotations

import random
import subprocess
import time
from pathlib import Path

import pytest
import torch
from runs import command, environment, mlflow_points, only_run, train

EPOCHS = "trainer.max_epochs=6"
EXEMPT = ("time/", "system/")


def _weights(run: Path) -> dict[str, torch.Tensor]:
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    return {**content["model"], **{f"objective.{name}": value for name, value in content["objective"].items()}}


def _compared(points: set[tuple[str, int, float]]) -> set[tuple[str, int, float]]:
    return {point for point in points if not point[0].startswith(EXEMPT)}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """An output folder with a finished run, and the seconds that training took."""
    output_dir = tmp_path_factory.mktemp("uninterrupted")
    train(output_dir, "trainer.max_epochs=1", "name=warm")  # phantoms and cache are there from now on
    started = time.monotonic()
    train(output_dir, EPOCHS)
    return output_dir, time.monotonic() - started


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_killed_run_ends_like_an_uninterrupted_one(
    uninterrupted: tuple[Path, float], tmp_path: Path, seed: int
) -> None:
    expected_dir, seconds = uninterrupted
    (tmp_path / "cache").symlink_to(expected_dir / "cache")
    kill_points = random.Random(seed)
    kills = 0
    for _ in range(4):
        process = subprocess.Popen(command(tmp_path, EPOCHS), env=environment(), stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=kill_points.uniform(0.3, 1.0) * seconds)
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
    train(tmp_path, EPOCHS)
    assert kills > 0, "the run ended before it was killed: the test did not test anything"

    (expected,) = [run for run in (expected_dir / "runs").iterdir() if not run.name.startswith("warm")]
    resumed = only_run(tmp_path)
    assert resumed.name == expected.name
    assert (resumed / "metrics.jsonl").read_bytes() == (expected / "metrics.jsonl").read_bytes()
    assert (resumed / "gates.json").read_bytes() == (expected / "gates.json").read_bytes()
    wanted, got = _weights(expected), _weights(resumed)
    assert wanted.keys() == got.keys()
    for name, value in wanted.items():
        assert torch.equal(value, got[name]), name

    (resumed_points,) = mlflow_points(tmp_path).values()
    everything = mlflow_points(expected_dir)
    run_id = next(run_id for run_id, points in everything.items() if max(step for _, step, _ in points) == 6)
    assert _compared(resumed_points) == _compared(everything[run_id])


def test_a_finished_run_is_reported_not_trained(uninterrupted: tuple[Path, float]) -> None:
    output_dir, _ = uninterrupted
    before = sorted(path.name for path in (output_dir / "runs").iterdir())
    result = train(output_dir, EPOCHS)
    assert "nothing to train" in result.stderr
    assert "vol_r2" in result.stdout
    assert sorted(path.name for path in (output_dir / "runs").iterdir()) == before


def test_resume_never_begins_another_run(uninterrupted: tuple[Path, float]) -> None:
    output_dir, _ = uninterrupted
    train(output_dir, "trainer.max_epochs=1", "name=twice")
    train(output_dir, "trainer.max_epochs=1", "name=twice", "trainer.resume=never")
    names = sorted(path.name for path in (output_dir / "runs").iterdir() if path.name.startswith("twice"))
    assert len(names) == 2
    assert names[1] == f"{names[0]}_2"


def test_continuing_from_a_checkpoint(uninterrupted: tuple[Path, float]) -> None:
    output_dir, _ = uninterrupted
    train(output_dir, "trainer.max_epochs=2", "name=short", "trainer.keep_optimizer=true", "curriculum.scale=false")
    (short,) = [run for run in (output_dir / "runs").iterdir() if run.name.startswith("short")]
    checkpoint = short / "checkpoints" / "last.ckpt"
    result = train(output_dir, "trainer.max_epochs=3", "name=long", f"trainer.resume={checkpoint}")
    assert "going on after epoch 2" in result.stderr
    pruned = next(run for run in (output_dir / "runs").iterdir() if run.name.startswith("warm"))
    refused = train(output_dir, "name=refused", f"trainer.resume={pruned / 'checkpoints' / 'last.ckpt'}", code=2)
    assert "holds no optimiser state" in refused.stderr
