"""The files of an evaluation: of the end of a run, and of ``menvae-evaluate``."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import TRACKED, menvae_evaluate, only_run, train

import menvae
from menvae.data.targets.declaration import Target
from menvae.errors import UserError
from menvae.evaluation.final import TRAVERSAL_STEPS, WALK_STEPS, evaluate_model, results
from menvae.metrics.interventions import NO_READER, SEVERAL_RANKS
from menvae.pictures import build_pictures, needs_of
from menvae.references import fitting
from menvae.references.find import find_references
from menvae.references.store import ReferenceStore
from menvae.runs.evaluate import EvaluationSettings, _splits
from menvae.runs.evaluation import _target_columns
from menvae.runs.references import ceiling_reader, reference_cohort
from menvae.runs.report import is_collapsed, write_report

SPLITS = ("val", "test")


@pytest.fixture(scope="module")
def output_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose validation and test split have 12 patients each."""
    path = tmp_path_factory.mktemp("evaluated")
    split = ("~data.num_subjects", "~data.val_fraction", "~data.test_fraction", "~trainer.max_epochs")
    sizes = ("data.num_subjects=40", "data.val_fraction=0.3", "data.test_fraction=0.3", "trainer.max_epochs=1")
    drawn = ("~+pictures.parts.latent_scatter", "~+pictures.parts.leak_matrix")
    train(path, *split, *sizes, *drawn, "~tracking.enabled", TRACKED)
    return path


def read(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


def test_validation_and_test_split_are_judged_alike(output_dir: Path) -> None:
    run = only_run(output_dir)
    described, gates = read(run / "evaluation.json"), read(run / "gates.json")
    assert {name: split["patients"] for name, split in described["splits"].items()} == {"val": 12, "test": 12}
    assert (described["run"], described["checkpoint"], described["epoch"]) == (run.name, "best", 1)
    for name, table in zip(SPLITS, (gates, gates["test"]), strict=True):
        metrics = described["splits"][name]["metrics"]
        assert described["splits"][name]["gates"] == table["gates"]
        for gate in table["gates"]:
            found = metrics[gate["metric"]]
            assert (gate["value"], gate["low"], gate["high"]) == (found["value"], found["low"], found["high"])
            assert gate["passed"] == (gate["verdict"] == "pass")
        assert "20 subjects, and two groups of generative factors" in metrics["truth/mig"]["reason"]
    assert gates["passed"] is False
    assert {gate["name"] for gate in gates["gates"]} == {gate["name"] for gate in gates["test"]["gates"]}


def test_errors_of_each_subject_average_to_the_metrics(output_dir: Path) -> None:
    run = only_run(output_dir)
    described = read(run / "evaluation.json")
    with (run / "per_subject.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len({row["subject_id"] for row in rows}) == 24
    for name in SPLITS:
        errors = [float(row["errors.mu"]) for row in rows if row["split"] == name]
        metrics = described["splits"][name]["metrics"]
        assert np.mean(errors) == pytest.approx(metrics["diag/recon_mu_mse"]["value"])
        for target in ("vol.vol_total", "shape.sphericity_total"):  # a logarithm, and a residual
            columns = [f"{kind}.{target}" for kind in ("targets", "predictions")]
            cells = [[row[column] for column in columns] for row in rows if row["split"] == name]
            true, predicted = np.array([list(map(float, both)) for both in cells if "" not in both]).T
            rest = 1.0 - np.sum((true - predicted) ** 2) / np.sum((true - true.mean()) ** 2)
            assert rest == pytest.approx(metrics[f"sem/{target.partition('.')[2]}_r2"]["value"], rel=1e-5)
    for row in rows:
        residual = float(row["vol_total.predicted_mL"]) - float(row["vol_total.true_mL"])
        assert float(row["vol_total.residual_mL"]) == pytest.approx(residual)
        assert 0.0 < float(row["loc_x.true_mm"]) < 160.0  # 16 voxels of 10 mm


def test_trackers_receive_all_estimates_and_both_files(output_dir: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{output_dir / 'mlflow.db'}")
    (experiment,) = [one for one in client.search_experiments() if one.name != "Default"]
    (run,) = client.search_runs([experiment.experiment_id])
    found = read(only_run(output_dir) / "evaluation.json")["splits"]["test"]["metrics"]["diag/recon_mu_mse"]
    for end, ending in (("value", ""), ("low", "/low"), ("high", "/high")):
        assert run.data.metrics[f"final/test/diag/recon_mu_mse{ending}"] == pytest.approx(found[end])
    assert {"evaluation.json", "per_subject.csv"} <= {file.path for file in client.list_artifacts(run.info.run_id)}


@pytest.fixture(scope="module")
def again(output_dir: Path) -> tuple[Path, str]:
    """The folder of ``menvae-evaluate``, and what it prints."""
    said = menvae_evaluate(output_dir, f"run={only_run(output_dir).name}")
    return only_run(output_dir) / "evaluations" / "best_val_test", said


def test_a_finished_run_judged_again_has_the_same_numbers(output_dir: Path, again: tuple[Path, str]) -> None:
    folder, said = again
    first, second = (read(path / "evaluation.json") for path in (only_run(output_dir), folder))
    for name in SPLITS:
        before, after = (each["splits"][name]["metrics"] for each in (first, second))
        assert before.keys() == after.keys()
        for key, expected in before.items():
            for end in ("value", "low", "high"):
                assert after[key][end] == (expected[end] and pytest.approx(expected[end], abs=1e-6)), (key, end)
            assert after[key]["n"] == expected["n"]
    assert read(folder / "gates.json")["passed"] == read(only_run(output_dir) / "gates.json")["passed"]
    assert (folder / "report.html").is_file()
    assert (folder / "per_subject.csv").is_file()
    assert "95 % interval" in said
    assert len([line for line in said.splitlines() if line.split()[:1] == ["test"]]) == len(
        first["splits"]["test"]["gates"]
    )
    assert str(folder) in said


def test_what_cannot_be_evaluated_is_refused_in_one_sentence(output_dir: Path, again: tuple[Path, str]) -> None:
    name = only_run(output_dir).name
    for arguments, words in (
        ([f"run={name}"], "exists; set overwrite=true"),
        (["run=nobody"], "'nobody' is neither a run directory"),
        ([f"run={name}", "data.modalities=[t1c]"], "data.modalities: t1c is not allowed; the model of run"),
        ([f"run={name}", "split=[]"], "split: [] is not allowed"),
        ([f"run=[{name},{name}]"], f"'{name}' appears twice"),
    ):
        said = menvae_evaluate(output_dir, *arguments, code=2)
        assert words in said
        assert len(said.strip().splitlines()) == 1


def test_any_splits_of_any_checkpoint_are_judged_and_drawn(output_dir: Path) -> None:
    run = only_run(output_dir)
    said = menvae_evaluate(output_dir, f"run={run}", "split=[test,train]", "checkpoint=last")
    folder = run / "evaluations" / "last_test_train"
    assert str(folder) in said
    described, gates = read(folder / "evaluation.json"), read(folder / "gates.json")
    assert (described["checkpoint"], list(described["splits"])) == ("last", ["test", "train"])
    assert [described["splits"][name]["patients"] for name in ("test", "train")] == [12, 16]
    assert gates["gates"] == described["splits"]["test"]["gates"], "the first split"
    assert gates["train"]["gates"] == described["splits"]["train"]["gates"]
    assert "no test split" not in gates["note"]
    assert {"latent_scatter.png", "leak_matrix.png"} <= {file.name for file in (folder / "pictures").iterdir()}
    with (folder / "per_subject.csv").open(newline="") as file:
        splits = {row["subject_id"]: row["split"] for row in csv.DictReader(file)}
    known = menvae.load_run(run).splits
    assert splits == {name: split for name, split in known.items() if split in ("test", "train")}
    gates_of_page = (folder / "report.html").read_text().partition('id="trained"')[0]
    assert ">Test split<" in gates_of_page
    assert ">Training split<" in gates_of_page
    assert "alidation" not in gates_of_page


def test_an_unfinished_run_and_an_empty_split_are_refused(output_dir: Path, tmp_path: Path) -> None:
    (run := tmp_path / only_run(output_dir).name).mkdir()
    shutil.copytree(only_run(output_dir), run, ignore=shutil.ignore_patterns("evaluations"), dirs_exist_ok=True)
    finished = menvae.load_run(run)
    for split, words in (("test", "has no subject in 'test'; known: train, val"), (("val", "test"), "in 'test'")):
        finished.__dict__["splits"] = {"a": "train", "b": "val"}  # as read from splits.csv
        with pytest.raises(UserError, match=words):
            _splits(finished, EvaluationSettings(run="r", split=split))  # type: ignore[arg-type]
    assert _splits(finished, EvaluationSettings(run="r")) == ["val"]
    status = read(run / "status.json")
    (run / "status.json").write_text(json.dumps({**status, "state": "running"}))
    said = menvae_evaluate(output_dir, f"run={run}", code=2)
    assert "is running, not finished; repeat its command to resume it" in said
    assert len(said.strip().splitlines()) == 1
    assert not (run / "evaluations").exists()


@pytest.mark.parametrize(("ratio", "collapsed"), [(1.04, True), (1.06, False)])
def test_the_summary_and_the_banner_agree_on_a_collapse(
    output_dir: Path, tmp_path: Path, ratio: float, collapsed: bool
) -> None:
    """The fixture ends with ratios of one; both sides of the limit are made from its files."""
    run = shutil.copytree(only_run(output_dir), tmp_path / "run")
    table, banner = read(run / "gates.json"), "Warning: posterior collapse"
    assert read(run / "summary.json")["collapsed"] == (banner in (run / "report.html").read_text())
    for gate in table["gates"]:
        if gate["name"] in ("mean_z_ratio", "shuffled_ratio"):
            gate["value"] = ratio if gate["name"] == "mean_z_ratio" else 1.0
    (run / "gates.json").write_text(json.dumps(table))
    assert is_collapsed("finished", table["gates"]) is collapsed
    summary = read(run / "summary.json")
    (run / "summary.json").write_text(json.dumps({**summary, "collapsed": collapsed}))
    assert (banner in write_report(run).read_text()) is collapsed


def test_two_ranks_in_half_precision_are_judged_like_one(tmp_path: Path, prepared_cache: Path) -> None:
    """The end of a run of two ranks, and one process that judges it afterwards."""
    (tmp_path / "cache").symlink_to(prepared_cache)
    train(tmp_path, "trainer.precision=bf16", "trainer.devices=2", "~trainer.max_epochs", "trainer.max_epochs=1")
    run = only_run(tmp_path)
    menvae_evaluate(tmp_path, f"run={run}", "device=cpu")
    at_end, later = (
        read(folder / "evaluation.json")["splits"]["val"] for folder in (run, run / "evaluations" / "best_val")
    )
    assert at_end["interventions"] == {"reason": SEVERAL_RANKS}
    assert later["interventions"] == {"reason": NO_READER}
    before, after = at_end["metrics"], later["metrics"]
    assert before.keys() == after.keys()
    for key, expected in before.items():
        for end in ("value", "low", "high"):  # batches of another size round differently in half precision
            assert after[key][end] == (expected[end] and pytest.approx(expected[end], rel=0.02, abs=2e-3)), (key, end)


def test_interventions_in_half_precision_are_the_same_when_judged_again(
    tmp_path: Path, prepared_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").symlink_to(prepared_cache)
    short = ("trainer.precision=bf16", "~trainer.max_epochs", "trainer.max_epochs=1")
    train(tmp_path, *short)
    loaded = menvae.load_run(first := only_run(tmp_path))
    cohort = reference_cohort(loaded.experiment, loaded.data, torch.device("cpu"))
    assert cohort is not None
    monkeypatch.setattr(fitting, "MOST_STEPS", 8)
    monkeypatch.setattr(fitting, "FEWEST_STEPS", 4)
    find_references(cohort, ReferenceStore(loaded.experiment.output_dir), "all")
    train(tmp_path, *short, "name=second")
    (run,) = set((tmp_path / "runs").iterdir()) - {first}
    menvae_evaluate(tmp_path, f"run={run}", "device=cpu")
    before, after = (
        read(folder / "evaluation.json")["splits"]["val"] for folder in (run, run / "evaluations" / "best_val")
    )
    assert list(before["interventions"]["changes"]) == ["vol", "loc", "shape", "residual"]
    assert before["interventions"] == after["interventions"]
    assert before["metrics"] == after["metrics"]


def test_images_are_decoded_only_for_pictures(output_dir: Path) -> None:
    run = menvae.load_run(only_run(output_dir))
    judged = {"val": run.outputs}
    evaluation = evaluate_model(run.model, run.training_inputs(), judged, [])
    trainer = run.experiment.settings["trainer"]
    for needs, expected in (
        ({"val"}, set()),
        ({"traversals"}, {"traversals"}),
        ({"walks"}, {"walks"}),
        ({"traversals", "walks", "swaps"}, {"traversals", "walks", "swaps"}),
    ):
        context = results(run.model, evaluation, run.data, {}, needs, trainer)
        found = {name: getattr(context, name) for name in ("traversals", "walks", "swaps")}
        assert {name for name, value in found.items() if value is not None} == expected
        for name in expected - {"swaps"}:
            steps = {"traversals": TRAVERSAL_STEPS, "walks": WALK_STEPS}[name]
            assert tuple(found[name].steps) == steps
            assert found[name].volumes.shape == (4, len(steps), 16, 16, 16)
    assert needs_of(build_pictures({}), "after_training") >= {"traversals", "walks", "swaps"}
    kept = build_pictures(dict.fromkeys(("traversals", "walks", "swaps")))
    assert not needs_of(kept, "after_training") & {"traversals", "walks", "swaps"}


@pytest.mark.parametrize(
    ("target", "true", "predicted", "expected"),
    [
        (
            Target("ln(mm³ + 1)", "vol"),
            2000.0,
            2500.0,
            {"t.true_mL": 2.0, "t.predicted_mL": 2.5, "t.residual_mL": 0.5, "t.residual_%": 25.0},
        ),
        (
            Target("share of box", "loc", 1),
            0.5,
            0.25,
            {"t.true_mm": 40.0, "t.predicted_mm": 20.0, "t.residual_mm": -20.0},
        ),
        (Target("ratio", "shape"), 0.5, 0.75, {"t.true": 0.5, "t.predicted": 0.75, "t.residual": 0.25}),
        (Target("years", "patient"), math.nan, 50.0, {"t.true": math.nan, "t.predicted": 50.0, "t.residual": math.nan}),
    ],
)
def test_residuals_have_the_units_of_the_clinic(
    target: Target, true: float, predicted: float, expected: dict[str, float]
) -> None:
    columns = dict(_target_columns("t", target, np.array([true]), np.array([predicted]), (160.0, 80.0, 40.0)))
    assert {name: float(cells[0] or "nan") for name, cells in columns.items()} == pytest.approx(expected, nan_ok=True)


def test_the_end_of_a_run_shows_its_floor(output_dir: Path) -> None:
    run = only_run(output_dir)
    found = read(run / "evaluation.json")["references"]
    assert set(found) == {"val", "test"}
    for of_split in found.values():
        assert len(of_split) == 13 + 3
        assert {kind for kinds in of_split.values() for kind in kinds} == {"floor"}
        assert of_split["vol_total"]["floor"]["n"] == 12
        mean = np.mean([of_split[name]["floor"]["value"] for name in ("loc_x", "loc_y", "loc_z")])
        assert of_split["loc"]["floor"]["value"] == pytest.approx(mean)
        assert of_split["loc"]["floor"]["low"] < of_split["loc"]["floor"]["value"] < of_split["loc"]["floor"]["high"]
    page = (run / "report.html").read_text()
    assert "R² beside references" in page
    assert '<th scope="col" class="number">Floor</th>' in page
    assert '<th scope="col" class="number">Ceiling</th>' not in page


def test_references_in_the_cache_are_shown_beside_r2(output_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = only_run(output_dir)
    loaded = menvae.load_run(run)
    cohort = reference_cohort(loaded.experiment, loaded.data, torch.device("cpu"))
    assert ceiling_reader(cohort, loaded.experiment) is None
    assert cohort is not None
    monkeypatch.setattr(fitting, "MOST_STEPS", 8)
    monkeypatch.setattr(fitting, "FEWEST_STEPS", 4)
    find_references(cohort, ReferenceStore(loaded.experiment.output_dir), "all")
    cached = output_dir / "references"
    before = {path: path.read_bytes() for path in cached.rglob("*") if path.is_file()}
    assert {path.parent.name.split("_")[0] for path in before} == {"floor", "ceiling", "segmented"}

    said = menvae_evaluate(output_dir, f"run={run.name}", "split=test", "references=true")
    assert {path: path.read_bytes() for path in cached.rglob("*") if path.is_file()} == before
    assert "segment, then measure" in said
    found = read(run / "evaluations" / "best_test" / "evaluation.json")
    assert {kind for kinds in found["references"]["test"].values() for kind in kinds} == {
        *("floor", "ceiling", "segmented")
    }
    first = read(run / "evaluation.json")["references"]["test"]["vol"]["floor"]
    assert found["references"]["test"]["vol"]["floor"] == first
    reader = ceiling_reader(cohort, loaded.experiment)
    assert reader is not None
    assert reader.read(torch.zeros(2, 4, 16, 16, 16)).shape == (2, 13)

    without, moved = (
        read(path / "evaluation.json")["splits"]["test"] for path in (run, run / "evaluations" / "best_test")
    )
    assert "references=true" in without["interventions"]["reason"]
    assert "No interventions: no model" in (run / "report.html").read_text()
    assert list(moved["interventions"]["changes"]) == ["vol", "loc", "shape", "residual"]
    of_vol = moved["interventions"]["changes"]["vol"]
    assert list(of_vol) == list(moved["interventions"]["reader"]) == list(reader.targets)
    ratio = moved["interventions"]["ratios"]["loc"]
    assert ratio == moved["metrics"]["intervention/loc_ratio"]
    of_loc = moved["interventions"]["changes"]["loc"]
    own = [of_loc.pop(name) for name in ("loc_x", "loc_y", "loc_z")]
    assert ratio["value"] == pytest.approx(min(np.sqrt(np.mean(np.square(own))) / max(of_loc.values()), 100.0))
