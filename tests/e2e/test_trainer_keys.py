"""Keys of the trainer in real runs: fp16, activation checkpointing, weights of another run, aggressive updates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import only_run, train


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def named(output_dir: Path, name: str) -> list[Path]:
    return sorted((output_dir / "runs").glob(f"{name}_*"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, prepared_cache: Path) -> Path:
    """An output folder with a run of one epoch."""
    output_dir = tmp_path_factory.mktemp("base")
    (output_dir / "cache").symlink_to(prepared_cache)
    train(output_dir, "trainer.max_epochs=1", "name=base")
    return output_dir


def test_fp16_with_aggressive_updates_on_two_ranks(base: Path) -> None:
    update = ("update=aggressive", "update.encoder_steps=1", "update.length=5.0")
    more_steps = ("trainer.batch_size=1", "trainer.max_epochs=5")
    train(base, "name=half", "trainer.precision=fp16", *update, *more_steps, "trainer.devices=2")
    (run,) = named(base, "half")
    found = rows(run)
    assert found[-1]["diag/loss_scale"] == 65536.0 / 2 ** sum(row["diag/skipped_steps"] for row in found)
    assert found[-1]["diag/grad_norm"] > 0.0


def test_activation_checkpointing_changes_no_digit(prepared_cache: Path, tmp_path: Path) -> None:
    spectral = ("encoder.spectral_norm=true", "decoder.spectral_norm=true", "trainer.max_epochs=2")
    runs = {}
    for value in ("false", "true"):
        (tmp_path / value).mkdir()
        (tmp_path / value / "cache").symlink_to(prepared_cache)
        train(tmp_path / value, *spectral, "trainer.devices=2", f"trainer.activation_checkpointing={value}")
        runs[value] = only_run(tmp_path / value)
    assert runs["false"].name == runs["true"].name, "the same result has the same name"
    assert (runs["false"] / "metrics.jsonl").read_bytes() == (runs["true"] / "metrics.jsonl").read_bytes()


def test_fine_tuning_begins_with_the_weights_of_another_run(base: Path, tmp_path: Path) -> None:
    (source,) = named(base, "base")
    told = train(base, "name=tuned", f"trainer.init_from={source}", "optimizer.learning_rate=1e-12")
    assert f"starting from the weights of {source / 'checkpoints' / 'best.ckpt'}" in told.stderr
    (run,) = named(base, "tuned")
    wanted, found = (
        torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["model"] for folder in (source, run)
    )
    assert all(torch.allclose(value, found[name], atol=1e-6) for name, value in wanted.items())
    assert [row["epoch"] for row in rows(run)] == [1, 2, 3]

    copied = tmp_path / "copied.ckpt"
    for change in (0.0, 1.0):  # the digest of the weights is part of the identity of a run
        content = torch.load(source / "checkpoints" / "best.ckpt", weights_only=True)
        content["model"]["encoder.head.mean.bias"] += change
        torch.save(content, copied)
        train(base, "name=copied", "trainer.max_epochs=1", f"trainer.init_from={copied}")
    assert len(named(base, "copied")) == 2


def test_frozen_encoder_of_another_run_sees_what_it_was_trained_on(base: Path) -> None:
    (source,) = named(base, "base")
    best = source / "checkpoints" / "best.ckpt"
    frozen = ("encoder=frozen", f"encoder.checkpoint={best}", "trainer.max_epochs=1")
    train(base, "name=frozen", *frozen)
    trained_on: str = torch.load(best, weights_only=True)["identity"]["data.modalities"]
    other = ", ".join(reversed(trained_on.split(", ")))
    assert other != trained_on
    refused = train(base, "name=refused_order", *frozen, f"data.modalities=[{other}]", code=2)
    words = (
        f"encoder.checkpoint: its weights were trained with data.modalities {trained_on}, but this configuration has "
    )
    assert words + other in refused.stderr, refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["trainer.init_from=/nowhere.ckpt"], "trainer.init_from: '/nowhere.ckpt' does not exist"),
        (["trainer.init_from={run}/config.yaml"], "is not a menvae checkpoint"),
        (
            ["trainer.init_from={run}", "model.partitions.vol=3"],
            "was trained with model.partitions vol 4, loc 3, shape 4, residual 5, but this configuration has vol 3,",
        ),
        (
            ["trainer.init_from={run}", "model.supervision.loc=[loc_z,loc_y,loc_x]"],
            "was trained with model.supervision ",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(base: Path, overrides: list[str], words: str) -> None:
    (source,) = named(base, "base")
    filled = [override.format(run=source) for override in overrides]
    refused = train(base, "name=refused", *filled, code=2)
    assert words in refused.stderr, refused.stderr
    assert "Traceback" not in refused.stderr
