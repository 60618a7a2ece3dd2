"""Whole runs on tables: what they leave, how they go on, and embeddings that another process finds again."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import runs
import torch
from omegaconf import OmegaConf
from runs import gates, only_run

from menvae.data.sources.lithology import draw_holes
from menvae.runs.report import write_report

EXPERIMENTS = ("lithology_vae", "lithology_semisup", "lithology_hybrid")
TINY_TABLE = (
    "data.num_rows=300",
    "data.num_holes=20",
    "data.num_classes=5",
    "trainer.max_epochs=4",
    "trainer.batch_size=32",
    "tracking.enabled=false",
)

EMBED = """
import sys
import numpy as np, torch
from omegaconf import OmegaConf
from pathlib import Path
from menvae.runs.embeddings import embed
from menvae.composition.experiment import Experiment
from menvae.training import checkpoint
from menvae.training.place import Place
run, key = Path(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
experiment = Experiment.from_config(OmegaConf.load(run / "config.yaml"))
device = torch.device("cpu")
data = experiment.load_data(Place(device, 0, 1))
model, _ = experiment.build(data.num_training_subjects, len(data.classes))
model.load_state_dict(checkpoint.load(run / "checkpoints" / "best.ckpt", device)["model"])
with np.load(run / "embeddings.npz") as file:
    assert np.array_equal(file[key], embed(model, data.embedded.rows.epoch(0), device))
"""


def train(output_dir: Path, *overrides: str, code: int = 0) -> str:
    """Run ``menvae-train`` on a tiny table."""
    arguments = [*TINY_TABLE, f"output_dir={output_dir}", *overrides]
    result = runs._run("train", arguments, runs.environment(), code)
    return str(result.stdout + result.stderr)


@pytest.fixture(scope="module", params=EXPERIMENTS)
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output_dir: Path = tmp_path_factory.mktemp(request.param)
    train(output_dir, f"experiment={request.param}")
    return only_run(output_dir)


def test_run_directory_is_complete(finished: Path) -> None:
    for name in (
        *("train.log", "config.yaml", "environment.json", "metrics.jsonl", "metrics.csv", "checkpoints/best.ckpt"),
        *("gates.json", "targets.json", "splits.csv", "report.html", "embeddings.npz"),
        *("pictures/schedule.png", "pictures/training_curves.png", "pictures/latent_scatter.png"),
    ):
        assert (finished / name).stat().st_size > 0, name
    classes = {"class_skill"} if "lithology_vae" not in finished.name else set()
    assert set(gates(finished)) == classes | {
        *("residual_active_units", "mean_z_ratio", "shuffled_ratio", "decoder_reads_residual", "mean_image_ratio"),
    }
    assert all(gate["value"] is not None for gate in gates(finished).values())
    last = json.loads((finished / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["val_epoch/mse_bulk_density"] > 0.0
    assert ("sem/class_balanced_accuracy" in last) == ("lithology_vae" not in finished.name)
    scaler = json.loads((finished / "targets.json").read_text())["scaler"]
    assert scaler["transforms"] == ["none", "signed_log", "signed_log", "log1p", "log1p", "log1p"]


def test_report_knows_rows_whatever_their_source_calls_its_keys(finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / finished.name)
    page = (run / "report.html").read_text()
    config = OmegaConf.load(run / "config.yaml")
    config.data.genes = config.data.pop("columns")
    OmegaConf.save(config, run / "config.yaml")
    (run / "report.html").unlink()
    write_report(run)
    again = (run / "report.html").read_text()
    for said in ("is missing", "No reconstructions"):
        assert said not in again
    for column in config.data.genes:
        assert page.count(f">{column}<") == again.count(f">{column}<") > 0


def test_report_reads_like_one_of_a_table(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    assert "bulk_density, magnetic_susceptibility" in page
    for word in ("is missing", "no reconstructions", "Modalities", "voxel"):
        assert word not in page, word


def test_embeddings_are_found_again_by_another_process(finished: Path) -> None:
    key = "unsup" if "lithology_vae" in finished.name else "semisup"
    with np.load(finished / "embeddings.npz") as file:
        assert file[key].shape == (300, 10)
        assert file[key].dtype == np.float32
        assert np.array_equal(file["y"], draw_holes(300, 5, 20, seed=0).labels)
        assert file["classes"].tolist() == ["L1", "L2", "L3", "L4", "L5"]
    environment = runs.environment()
    command = [sys.executable, "-c", EMBED, str(finished), key]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr[-4000:]


def test_both_embeddings_in_one_file(tmp_path: Path) -> None:
    train(tmp_path / "a", "experiment=lithology_vae", "trainer.max_epochs=1")
    unsupervised = only_run(tmp_path / "a")
    semi = ("experiment=lithology_semisup", "trainer.max_epochs=1")
    train(tmp_path / "b", *semi)
    train(tmp_path / "b", *semi, f"data.unsup_run={unsupervised}")  # finished already: the file is completed
    with np.load(only_run(tmp_path / "b") / "embeddings.npz") as file, np.load(unsupervised / "embeddings.npz") as own:
        assert set(file.files) == {"unsup", "semisup", "y", "classes", "rows_hash"}
        assert np.array_equal(file["unsup"], own["unsup"])
    said = train(tmp_path / "b", *semi, "data.seed=1", f"data.unsup_run={unsupervised}", code=2)
    assert "belongs to another table" in said


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    """Masks, noise, dropout and order are those of a run that nobody stopped."""
    chosen = ("experiment=lithology_hybrid", "trainer.max_epochs=60", "trainer.batch_size=8")
    train(tmp_path / "whole", *chosen)
    arguments = [*TINY_TABLE, *chosen, f"output_dir={tmp_path / 'halves'}"]
    process = runs.Started("train", arguments, runs.environment())
    while sum(path.read_bytes().count(b"\n") for path in tmp_path.glob("halves/runs/*/metrics.jsonl")) < 3:
        assert process.poll() is None, "the run ended before it was stopped"
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 75
    train(tmp_path / "halves", *chosen)
    ours, theirs = (
        torch.load(only_run(tmp_path / name) / "checkpoints" / "last.ckpt", weights_only=True)["model"]
        for name in ("whole", "halves")
    )
    assert any(name.endswith("running_mean") for name in ours)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    whole, halves = (np.load(only_run(tmp_path / name) / "embeddings.npz") for name in ("whole", "halves"))
    assert np.array_equal(whole["semisup"], halves["semisup"])


def test_a_truncated_last_checkpoint_has_a_remedy(tmp_path: Path) -> None:
    overrides = ("experiment=lithology_vae", "trainer.max_epochs=1")
    told = train(tmp_path, *overrides)
    phases = ("training: epochs 1 to 1 of", "evaluating the", "drawing the", "writing the report")
    assert [phase for phase in phases if phase not in told] == []
    run = only_run(tmp_path)
    last, status = run / "checkpoints" / "last.ckpt", run / "status.json"
    last.write_bytes(last.read_bytes()[:1000])
    told = train(tmp_path, *overrides)
    assert f"'{last}' is not a menvae checkpoint" in told
    assert "delete it, and use best.ckpt" in told
    status.write_text(json.dumps({**json.loads(status.read_text()), "state": "interrupted"}))
    assert "delete this file, and the same command trains the run from the start" in train(tmp_path, *overrides, code=2)
    last.unlink()
    train(tmp_path, *overrides)
    assert last.is_file()
    last.unlink()
    assert "already finished" in train(tmp_path, *overrides)


def test_targets_of_a_table_are_learnt_and_judged(tmp_path: Path) -> None:
    """Columns that are no inputs, of which a third is missing; nobody can predict the noise."""
    random = np.random.default_rng(0)
    inputs = random.normal(size=(400, 3))
    grade, noise = np.exp(1.0 + inputs[:, 0]), random.normal(size=400)
    grade[random.random(400) < 0.3] = np.nan
    content = {**{name: inputs[:, place] for place, name in enumerate("abc")}, "grade": grade, "noise": noise}
    pd.DataFrame(content).to_csv(tmp_path / "rows.csv", index=False)
    chosen = ["experiment=table_semivae", "data=table", "data.columns=[a,b,c]", "data.target_columns=[grade,noise]"]
    chosen += ["data.transforms={grade:log1p}", "trainer.max_epochs=40", "trainer.batch_size=32"]
    chosen += [f"data.path={tmp_path / 'rows.csv'}", f"output_dir={tmp_path}", "tracking.enabled=false"]
    runs._run("train", chosen, runs.environment(), 0)
    run = only_run(tmp_path)
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["sem/grade_r2"] > 0.8
    assert last["sem/noise_r2"] < 0.3
    assert gates(run)["target_r2"]["value"] is not None
    written = json.loads((run / "targets.json").read_text())
    assert written["statistics"]["grade"]["num_observed"] < 0.8 * 320
    assert written["scaler"]["columns"] == ["a", "b", "c"]
    for name in ("target_correlation", "leak_matrix", "regression", "latent_scatter"):
        assert (run / "pictures" / f"{name}.png").stat().st_size > 0
    assert "is missing" not in (run / "report.html").read_text()
    moved = tmp_path / "elsewhere" / "rows.parquet"
    moved.parent.mkdir()
    pd.DataFrame(content).to_parquet(moved)
    runs._run("train", [*chosen, f"data.path={moved}"], runs.environment(), 0)
    assert only_run(tmp_path) == run, "the run is found again where the table moved"


def test_menvae_prepare_says_that_a_table_needs_none(tmp_path: Path) -> None:
    result = runs._run("prepare", ["data=lithology", f"output_dir={tmp_path}"], runs.environment(), 2)
    assert "'lithology' needs no preparation; use it with menvae-train" in result.stderr
