"""Finished runs in Python: they repeat what they have logged, and refuse what does not belong to them."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden.artefacts import FOLDER
from mlflow.tracking import MlflowClient
from runs import TRACKED, gates, only_run, train
from sklearn.metrics import r2_score

import menvae
from menvae.errors import UserError
from menvae.evaluation.final import evaluate_model
from menvae.runs.finished import FinishedRun
from menvae.training import checkpoint
from menvae.training.validation import SplitObjective

SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def output_dir(tmp_path_factory: pytest.TempPathFactory, prepared_cache: Path) -> Path:
    """A run on volumes with all three splits, tracked by MLflow."""
    output_dir = tmp_path_factory.mktemp("volumes")
    (output_dir / "cache").symlink_to(prepared_cache)
    own = ("data.val_fraction=0.25", "data.test_fraction=0.25", "augmentation.flip=0.5")
    train(output_dir, TRACKED, *(f"~{key.partition('=')[0]}" for key in own[:2]), *own)
    return output_dir


@pytest.fixture(scope="module")
def run(output_dir: Path) -> FinishedRun:
    return menvae.load_run(only_run(output_dir))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """The output directory of a finished run on a table, whose table lies elsewhere than when it was trained."""
    return shutil.copytree(FOLDER / "0.1.0" / "table", tmp_path / "table")


def load_table(output_dir: Path, **more: Any) -> FinishedRun:
    path = output_dir / "table.csv"
    return menvae.load_run(only_run(output_dir), **{"overrides": [f"data.path={path}"], **more})


def rows(run: FinishedRun) -> list[dict[str, str]]:
    with (run.path / "splits.csv").open() as file:
        return list(csv.DictReader(file))


def validated(run: FinishedRun) -> dict[str, float]:
    """Repeat the validation of the epoch of the weights."""
    progress = run.experiment.settings["curriculum"].progress(run.epoch, run.config["trainer"]["max_epochs"])
    whole = SplitObjective(run.objective, progress)
    for batch, output in run.outputs("val"):
        whole.add(batch, output)
    return {f"val_epoch/{name}": value for name, value in whole.values().items()}


def test_validation_repeats_what_was_logged(run: FinishedRun) -> None:
    found = validated(run)
    assert {"val_epoch/loss", "val_epoch/recon", "val_epoch/vol", "val_epoch/dcor"} <= found.keys()
    assert found == pytest.approx({key: run.metrics[key] for key in found}, rel=1e-6)


def test_metrics_and_gates_repeat_what_was_logged(run: FinishedRun) -> None:
    metrics = run.experiment.build_metrics()
    training = (batch for batch, _ in run.outputs("train"))
    evaluation = evaluate_model(run.model, training, {"val": lambda: run.outputs("val")}, metrics)
    logged = json.loads((run.path / "metrics.jsonl").read_text().splitlines()[run.epoch - 1])
    of_training = ("diag/recon_mean_z_mse", "diag/mean_z_ratio")  # of the latents as they were while the epoch trained
    of_epoch = {key for metric in metrics if metric.when == "epoch" for key in metric.names()} - set(of_training)
    found = {key: value for key, value in evaluation.metrics.items() if key in of_epoch and value is not None}
    assert len(found) > 20
    assert found == pytest.approx({key: logged[key] for key in found}, rel=1e-6, abs=1e-9)
    assert all(logged[key] is None for key in of_epoch if evaluation.metrics[key] is None)
    for name, gate in gates(run.path).items():
        value = evaluation.metrics[gate["metric"]]
        assert value == (gate["value"] and pytest.approx(gate["value"], rel=1e-6)), name
        assert run.metrics[f"gate/{name}"] == gate["value"]


def test_r2_is_that_of_scikit_learn_on_the_outputs(run: FinishedRun) -> None:
    outputs = list(run.outputs("val"))
    for partition, names in run.experiment.supervision.items():
        true = np.concatenate([batch.targets[partition] for batch, _ in outputs])
        predicted = np.concatenate([output.predictions[partition] for _, output in outputs])
        observed = np.concatenate([batch.observed[partition] for batch, _ in outputs])
        for column, name in enumerate(names):
            there = observed[:, column]
            expected = run.metrics[f"sem/{name}_r2"]
            if expected is not None:
                found = r2_score(true[there, column], predicted[there, column])
                assert found == pytest.approx(expected, rel=1e-5, abs=1e-6), name


def test_loaders_give_every_subject_of_their_split_in_order(run: FinishedRun) -> None:
    for split in SPLITS:
        loader = getattr(run.data, split)
        expected = [row["subject_id"] for row in rows(run) if row["split"] == split]
        assert expected
        for epoch in (0, 2):
            assert [name for batch in loader.epoch(epoch) for name in batch.subject_id] == expected
    first, later = (torch.cat([batch.inputs for batch in run.data.train.epoch(epoch)]) for epoch in (0, 2))
    assert torch.equal(first, later), "augmentation.flip is for training"


def test_no_patient_is_in_two_splits(run: FinishedRun) -> None:
    patients = {
        split: {name for batch in getattr(run.data, split).epoch(0) for name in batch.patient_id} for split in SPLITS
    }
    assert sum(len(found) for found in patients.values()) == len(set().union(*patients.values())) == 12
    assert patients == {split: {row["patient_id"] for row in rows(run) if row["split"] == split} for split in SPLITS}


def test_targets_give_z_scores_of_the_batches(run: FinishedRun) -> None:
    assert run.targets is not None
    assert run.data.targets is not None
    batch = next(iter(run.data.test.epoch(0)))  # type: ignore[union-attr]
    for partition, names in run.experiment.supervision.items():
        for row, subject in enumerate(batch.subject_id):
            expected = [run.targets.normalise(run.data.targets.raw[subject], name) or 0.0 for name in names]
            assert batch.targets[partition][row].tolist() == pytest.approx(expected, rel=1e-6)


def test_model_needs_no_cohort_and_no_random_numbers(run: FinishedRun, tmp_path: Path) -> None:
    moved = shutil.copytree(run.path, tmp_path / "elsewhere" / "runs" / run.name)
    before = torch.get_rng_state()
    alone = menvae.load_run(moved)
    model = alone.model
    assert torch.equal(torch.get_rng_state(), before)
    assert not model.training
    assert not (tmp_path / "elsewhere" / "cache").exists()
    assert alone.experiment.output_dir == tmp_path / "elsewhere"
    stored = torch.load(run.path / "checkpoints" / "best.ckpt", weights_only=True)["model"]
    assert all(torch.equal(value, stored[name]) for name, value in model.state_dict().items())


def test_last_weights_have_the_metrics_of_the_last_epoch(run: FinishedRun) -> None:
    last = menvae.load_run(run.path, checkpoint="last")
    assert last.epoch == 3
    found = validated(last)
    line = json.loads((run.path / "metrics.jsonl").read_text().splitlines()[-1])
    assert found == pytest.approx({key: line[key] for key in found}, rel=1e-6)
    assert not any(key.startswith("gate/") for key in last.metrics)


def test_a_run_on_a_table_repeats_what_it_logged(table: Path) -> None:
    run = load_table(table)
    found = validated(run)
    assert found == pytest.approx({key: run.metrics[key] for key in found}, rel=1e-6)
    assert run.data.test is None
    assert run.targets is None
    with np.load(run.path / "embeddings.npz") as file:
        assert tuple(file["classes"]) == run.data.classes
    with pytest.raises(UserError, match=r"split: run 'lithology_semisup_\w+' has no subject in 'test'; .*train, val"):
        next(run.outputs("test"))


@contextmanager
def edited(path: Path, edit: Callable[[dict[str, Any]], object]) -> Iterator[None]:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    yield


@pytest.mark.parametrize("state", ["running", "interrupted", "failed"])
def test_a_run_that_is_not_finished_is_refused(table: Path, state: str) -> None:
    with (
        edited(only_run(table) / "status.json", lambda status: status.update(state=state)),
        pytest.raises(UserError, match=rf"run 'lithology_semisup_\w+' is {state}, not finished"),
    ):
        load_table(table)


def test_a_checkpoint_that_is_not_there_is_refused(table: Path) -> None:
    (only_run(table) / "checkpoints" / "best.ckpt").unlink()
    with pytest.raises(UserError, match=r"checkpoint: run '\w+' has no 'best'; .*known: last"):
        load_table(table)


def test_other_data_are_refused(table: Path) -> None:
    path = table / "table.csv"
    path.write_text(re.sub(r"\d\.\d", "3.3", path.read_text(), count=1))
    run = load_table(table)
    with pytest.raises(UserError, match=r"was trained on other data: the data found now in .*table.csv' have the hash"):
        _ = run.data


def test_other_splits_are_refused(table: Path) -> None:
    path = only_run(table) / "splits.csv"
    path.write_text(path.read_text().replace("val", "train", 1))
    with pytest.raises(
        UserError, match=r"the split of 1 of 42 subjects differs from that in splits.csv, such as 'row-\d+'"
    ):
        _ = load_table(table).data


def test_other_targets_are_refused(run: FinishedRun, output_dir: Path, tmp_path: Path) -> None:
    path = shutil.copytree(run.path, tmp_path / run.name)

    def scale(targets: dict[str, Any], factor: float) -> None:
        targets["statistics"]["vol_total"]["mean"] *= factor
        targets["hash"] = "another"

    with edited(path / "targets.json", lambda targets: scale(targets, 1.0 + 1e-12)):
        assert menvae.load_run(path, output_dir=output_dir).data.test is not None, "another machine's last digit"
    with (
        edited(path / "targets.json", lambda targets: scale(targets, 2.0)),
        pytest.raises(UserError, match=r"targets fitted now differ from targets.json: statistics.vol_total.mean is"),
    ):
        _ = menvae.load_run(path, output_dir=output_dir).data
    with pytest.raises(UserError, match="was trained with targets"):
        _ = menvae.load_run(path, output_dir=output_dir).model


def test_a_checkpoint_of_another_architecture_is_refused(run: FinishedRun, tmp_path: Path) -> None:
    path = shutil.copytree(run.path, tmp_path / run.name)
    content = checkpoint.load(path / "checkpoints" / "best.ckpt", torch.device("cpu"))
    name = next(name for name, value in content["model"].items() if value.ndim > 1)
    content["model"][name] = content["model"][name][:1]
    checkpoint.save(path / "checkpoints" / "best.ckpt", content)
    with pytest.raises(UserError, match=r"best.ckpt' does not fit this model: size mismatch"):
        _ = menvae.load_run(path).model


def test_a_plugin_that_is_missing_is_named(table: Path) -> None:
    config = only_run(table) / "config.yaml"
    config.write_text(config.read_text().replace("name: mlp", "name: of_a_plugin", 1))
    with pytest.raises(UserError, match=r"cannot be loaded by this installation: encoder: 'of_a_plugin' is not regis"):
        load_table(table)


@pytest.mark.parametrize("override", ["data.columns=[density]", "seed=1", "+data.more=1", "~data.path", "data=phantom"])
def test_overrides_that_change_the_result_are_refused(table: Path, override: str) -> None:
    with pytest.raises(UserError, match=r"^overrides: .* would change the result of the run; allowed are .*data\.path"):
        load_table(table, overrides=[override])


def test_an_override_that_cannot_be_read_is_refused(table: Path) -> None:
    with pytest.raises(UserError, match=r"^overrides: 'data\.path' cannot be read; write <key>=<value>"):
        load_table(table, overrides=["data.path"])


def test_what_is_no_run_is_refused(output_dir: Path, run: FinishedRun, tmp_path: Path) -> None:
    assert menvae.load_run(run.name, output_dir=output_dir).path == run.path
    with pytest.raises(UserError, match=r"is not a run directory, because it has no config.yaml"):
        menvae.load_run(tmp_path)
    with pytest.raises(UserError, match=rf"did you mean '{run.name}'"):
        menvae.load_run(run.name[:-1], output_dir=output_dir)
    with pytest.raises(UserError, match=f"run: '{32 * '0'}' does not exist in .*mlflow.db"):
        menvae.load_run(32 * "0", output_dir=output_dir)


def test_a_run_of_mlflow_is_found_or_downloaded(output_dir: Path, run: FinishedRun, tmp_path: Path) -> None:
    store = f"sqlite:///{output_dir / 'mlflow.db'}"
    tracked = menvae.load_runs(store)
    assert list(tracked.index) == [run.name]
    identifier = tracked["run_id"].iloc[0]
    assert menvae.load_run(identifier, output_dir=output_dir).path == run.path
    original, metrics = run.model.state_dict(), run.metrics  # read from files that are hidden below
    hidden = run.path.rename(tmp_path / "hidden")
    try:
        loaded = menvae.load_run(identifier, output_dir=tmp_path, tracking_uri=store)
        assert loaded.path == tmp_path / "downloaded" / f"{run.name}_{identifier[:8]}"
        (loaded.path / "is_kept").touch()
        again = menvae.load_run(identifier, output_dir=tmp_path, tracking_uri=store)
        assert (again.path / "is_kept").is_file()
        weights = loaded.model.state_dict()
        assert all(torch.equal(value, weights[name]) for name, value in original.items())
        assert (loaded.status, loaded.epoch, loaded.metrics) == (run.status, run.epoch, metrics)
    finally:
        hidden.rename(run.path)
    assert [path.name for path in (tmp_path / "downloaded").iterdir()] == [loaded.path.name]


def test_two_processes_may_download_a_run_at_once(
    output_dir: Path, run: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process has the run after this one has begun and before it is done."""
    store = f"sqlite:///{output_dir / 'mlflow.db'}"
    identifier = menvae.load_runs(store)["run_id"].iloc[0]
    program = "import sys, menvae; menvae.load_run(sys.argv[1], output_dir=sys.argv[2], tracking_uri=sys.argv[3])"
    command = [sys.executable, "-c", program, identifier, str(tmp_path), store]
    download, others = MlflowClient.download_artifacts, []

    def download_slowly(client: MlflowClient, *arguments: str) -> str:
        if not others:
            others.append(subprocess.run(command, check=True))
        return download(client, *arguments)

    monkeypatch.setattr(MlflowClient, "download_artifacts", download_slowly)
    hidden = run.path.rename(tmp_path / "hidden")
    try:
        loaded = menvae.load_run(identifier, output_dir=tmp_path, tracking_uri=store)
    finally:
        hidden.rename(run.path)
    assert others
    assert (loaded.status, loaded.epoch) == (run.status, run.epoch)
    assert [path.name for path in (tmp_path / "downloaded").iterdir()] == [loaded.path.name]


def test_runs_as_a_data_frame(output_dir: Path, run: FinishedRun) -> None:
    folders, tracked = menvae.load_runs(output_dir), menvae.load_runs(f"sqlite:///{output_dir / 'mlflow.db'}")
    for frame in (folders, tracked):
        assert list(frame.index) == [run.name]
        row = frame.iloc[0]
        assert row["status"] == "finished"
        assert row["params.seed"] == 42
        assert row["params.data.roi_size"] == "[16, 16, 16]"
        assert row["params.trainer.init_from"] is None
        assert row["metrics.gate/mean_z_ratio"] == run.metrics["gate/mean_z_ratio"]
    assert set(folders.columns) - {"path"} == set(tracked.columns) - {"run_id", "params.num_ranks"}
    last = json.loads((run.path / "metrics.jsonl").read_text().splitlines()[-1])
    for key, value in last.items():
        if key != "epoch" and value is not None:
            assert folders.iloc[0][f"metrics.{key}"] == tracked.iloc[0][f"metrics.{key}"] == value, key
    assert menvae.load_run(folders["path"].iloc[0]).name == run.name
    assert len(menvae.load_runs(output_dir, experiment="menvae")) == 1
    assert len(menvae.load_runs(output_dir, experiment="another")) == 0


def test_a_run_that_has_just_begun_is_a_row(table: Path) -> None:
    begun = table / "runs" / "begun"
    begun.mkdir()
    (begun / "config.yaml").write_text("seed: 7\ntracking: {experiment: menvae}\n")
    (table / "runs" / "not_a_run").mkdir()
    frame = menvae.load_runs(table)
    assert dict(frame["status"]) == {"begun": "new", only_run_name(table): "finished"}
    assert frame.loc["begun", "params.seed"] == 7
    assert np.isnan(frame.loc["begun", "metrics.gate/mean_z_ratio"])
    with pytest.raises(UserError, match=r"source: '.*nowhere' has no folder 'runs'"):
        menvae.load_runs(table / "nowhere")


def only_run_name(output_dir: Path) -> str:
    return next(path.name for path in (output_dir / "runs").iterdir() if path.name.startswith("lithology"))


def test_importing_menvae_imports_neither_torch_nor_pandas() -> None:
    program = """
import sys, menvae
assert menvae.__version__ and "load_run" in dir(menvae)
heavy = {"torch", "pandas", "hydra", "mlflow", "numpy"} & set(sys.modules)
assert not heavy, heavy
assert not hasattr(menvae, "load")
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("page", ["README.md", "docs/finished_runs.md"])
def test_snippet_of_the_documentation(
    page: str, output_dir: Path, run: FinishedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[2] / page).read_text(), re.DOTALL)
    monkeypatch.chdir(output_dir.parent)
    snippet = snippet.replace('"outputs', f'"{output_dir.name}').replace("semivae_0123456789", run.name)
    names: dict[str, Any] = {}
    exec(snippet, names)
    assert len(names["table"]) == sum(row["split"] == "test" for row in rows(run))
    assert page == "README.md" or names["latents"].shape == (len(names["table"]), 16)
