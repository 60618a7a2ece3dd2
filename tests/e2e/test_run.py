"""One real run: what it leaves behind, and what happens when two start at once."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from runs import DRAWN, TRACKED, gates, mlflow_points, only_run, start, train


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, prepared_cache: Path) -> Path:
    output_dir = tmp_path_factory.mktemp("finished")
    (output_dir / "cache").symlink_to(prepared_cache)
    train(output_dir, TRACKED, *DRAWN)
    return output_dir


def test_run_directory_is_complete(finished: Path) -> None:
    run = only_run(finished)
    for name in (
        "train.log",
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "metrics.csv",
        "checkpoints/last.ckpt",
        "checkpoints/best.ckpt",
        "gates.json",
        "targets.json",
        "splits.csv",
        "report.html",
        "pictures/schedule.png",
        "pictures/target_correlation.png",
        "pictures/training_curves.png",
        "pictures/traversals.png",
        "pictures/walks.gif",
        "pictures/swaps.png",
        "pictures/leak_matrix.png",
        "pictures/latent_scatter.png",
    ):
        assert (run / name).stat().st_size > 0, name
    assert list(run.glob("pictures/epoch_3/*.png"))
    assert [json.loads(line)["epoch"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3]
    assert [row["epoch"] for row in csv.DictReader((run / "metrics.csv").open())] == ["1", "2", "3"]


def test_gates_table_is_complete_and_printed(finished: Path) -> None:
    found = gates(only_run(finished))
    assert list(found) == [
        "vol_r2",
        "loc_r2",
        "shape_r2",
        "max_dcor",
        "residual_active_units",
        "mean_z_ratio",
        "shuffled_ratio",
        "leak_max",
        "decoder_reads_vol",
        "decoder_reads_loc",
        "decoder_reads_shape",
        "decoder_reads_residual",
        "mean_image_ratio",
    ]
    log = (only_run(finished) / "train.log").read_text()
    assert all(name in log for name in found)
    assert "\x1b[" not in log


def test_targets_are_normalised_on_training_subjects(finished: Path) -> None:
    from menvae.data.cache.prepare import prepare
    from menvae.data.sources.phantom import PhantomSource
    from menvae.data.targets.normalizer import TargetNormalizer

    run = only_run(finished)
    normalizer = TargetNormalizer.from_dict(json.loads((run / "targets.json").read_text()))
    train_ids = {row["subject_id"] for row in csv.DictReader((run / "splits.csv").open()) if row["split"] == "train"}
    source = PhantomSource(num_subjects=12, roi_size=(16, 16, 16), spacing_mm=(10.0, 10.0, 10.0))
    subjects = prepare(source, finished / "cache").subjects  # of the run: the cache is that of many tests
    training = [subject.features for subject in subjects if subject.subject_id in train_ids]
    for feature, statistics in normalizer.statistics.items():
        scores = [normalizer.normalise(raw, feature) for raw in training]
        known = [score for score in scores if score is not None]
        if len(known) > 1 and not statistics.reason:
            mean = sum(known) / len(known)
            assert abs(mean) < 1e-9, feature
            assert abs(sum((score - mean) ** 2 for score in known) / len(known) - 1.0) < 1e-9, feature


def test_mlflow_has_the_run_once_with_parameters_metrics_and_artifacts(finished: Path) -> None:
    import mlflow

    (points,) = mlflow_points(finished).values()
    local = [json.loads(line) for line in (only_run(finished) / "metrics.jsonl").read_text().splitlines()]
    expected = {
        (key, row["epoch"], value)
        for row in local
        for key, value in row.items()
        if key != "epoch" and value is not None
    }
    assert expected <= points
    client = mlflow.MlflowClient(f"sqlite:///{finished / 'mlflow.db'}")
    (run,) = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert run.info.status == "FINISHED"
    assert run.data.params["loss.lambda_dcor"] == "5.0"
    names = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    assert {"report.html", "pictures", "gates.json", "checkpoints", "train.log"} <= names
    pictures = {file.path for file in client.list_artifacts(run.info.run_id, "pictures")}
    assert {"pictures/walks.gif", "pictures/swaps.png"} <= pictures
    assert [file.path for file in client.list_artifacts(run.info.run_id, "checkpoints")] == ["checkpoints/best.ckpt"]


def test_two_at_once_do_not_share_a_run(finished: Path) -> None:
    overrides = ["name=race", "trainer.max_epochs=4"]
    processes = [start(finished, *overrides) for _ in range(2)]
    results = [(process.output.read(), process.wait()) for process in processes]
    codes = sorted(code for _, code in results)
    assert codes == [0, 2], results
    refused = next(error for error, code in results if code == 2)
    assert "is being trained by process" in refused


def test_strict_gates_give_exit_code_3(finished: Path) -> None:
    train(finished, "gates.strict=true", code=3)


def test_bf16_and_many_steps_stay_finite(tmp_path: Path, prepared_cache: Path) -> None:
    (tmp_path / "cache").symlink_to(prepared_cache)
    train(tmp_path, "trainer.precision=bf16", "trainer.max_epochs=2")
    rows = [json.loads(line) for line in (only_run(tmp_path) / "metrics.jsonl").read_text().splitlines()]
    assert all(row["train_epoch/loss"] is not None for row in rows)
