"""``trainer.tune`` and ``trainer.precision=auto`` in whole runs."""

import json
from pathlib import Path

from runs import train

from menvae.runs.tuning import as_trained
from menvae.training.settings import TrainerSettings


def _environment(output_dir: Path) -> tuple[Path, dict]:
    (run_dir,) = (output_dir / "runs").iterdir()
    return run_dir, json.loads((run_dir / "environment.json").read_text())


def test_ranks_train_as_the_first_one_has_chosen(tmp_path: Path, prepared_cache: Path):
    (tmp_path / "cache").symlink_to(prepared_cache)
    keys = ("trainer.devices=2", "trainer.tune=auto", "trainer.max_epochs=1", "trainer.precision=auto")
    done = train(tmp_path, *keys)
    run_dir, environment = _environment(tmp_path)
    chosen = environment["tuning"]
    assert "trainer.tune, measured in" in done.stdout + done.stderr
    assert "as configured" in chosen["milliseconds"]
    assert environment["num_threads"] == (chosen["num_threads"] or 1)
    assert chosen["precision"] in ("fp32", "bf16")
    assert as_trained(TrainerSettings(precision="auto"), run_dir).precision == chosen["precision"]


def test_a_resumed_run_keeps_its_precision(tmp_path: Path, prepared_cache: Path):
    (tmp_path / "cache").symlink_to(prepared_cache)
    train(tmp_path, "trainer.max_epochs=1", "trainer.precision=auto", "trainer.keep_optimizer=true")
    run_dir, environment = _environment(tmp_path)
    other = {"fp32": "bf16", "bf16": "fp32"}[environment["tuning"]["precision"]]
    environment["tuning"]["precision"] = other  # as if an earlier process, elsewhere, had chosen it
    (run_dir / "environment.json").write_text(json.dumps(environment))
    status = json.loads((run_dir / "status.json").read_text())
    (run_dir / "status.json").write_text(json.dumps({**status, "state": "running"}))
    train(tmp_path, "trainer.max_epochs=1", "trainer.precision=auto", "trainer.keep_optimizer=true")
    assert _environment(tmp_path)[1]["tuning"]["precision"] == other
