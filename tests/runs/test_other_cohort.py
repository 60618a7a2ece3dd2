"""``menvae-evaluate`` on another cohort: what it judges, whom it leaves out, and what it refuses."""

from __future__ import annotations

import csv
import json
import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from golden.artefacts import FOLDER
from runs import only_run, train

import menvae
from menvae.apps import evaluate as application
from menvae.data.phantom.head import phantom_subject, write_subject
from menvae.references import fitting
from menvae.runs.cohort import CohortRequest, open_cohort
from menvae.runs.evaluate import evaluate_run
from menvae.runs.finished import FinishedRun
from menvae.runs.other_cohort import OtherCohort

SPACING = (10.0, 10.0, 10.0)
Evaluate = Callable[..., str]


def cohort(root: Path, seed: int, *indices: int) -> Path:
    for index in indices:
        write_subject(phantom_subject(seed, index, SPACING), root)
    return root


@pytest.fixture(scope="module")
def output_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a folder of patients, of whom 12 are in the test split."""
    path = tmp_path_factory.mktemp("outputs")
    root = cohort(path / "patients", 5, *range(24))
    keys = ("data=brats", f"data.root={root}", "data.box=center", "data.val_fraction=0.2", "data.test_fraction=0.5")
    train(
        path,
        "~data.num_subjects",
        "~data.val_fraction",
        "~data.test_fraction",
        "~trainer.max_epochs",
        "trainer.max_epochs=1",
        *keys,
    )
    return path


@pytest.fixture(scope="module")
def run(output_dir: Path) -> FinishedRun:
    return menvae.load_run(only_run(output_dir))


@pytest.fixture
def evaluate(run: FinishedRun, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> Evaluate:
    """Return a function that runs the command in this process, checks its exit code, and returns what it says."""

    def command(*overrides: str, code: int = 0, path: Path = run.path) -> str:
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # the command sets it; this puts it back
        monkeypatch.setattr(sys, "argv", ["menvae-evaluate", f"run={path}", "device=cpu", *overrides])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            application.main()
        said = "".join(capfd.readouterr())
        assert int(ended.value.code or 0) == code, said
        return str(said)

    return command


def of_split(run: FinishedRun, split: str) -> list[str]:
    return [name for name, where in run.splits.items() if where == split]


def copied(run: FinishedRun, names: list[str], root: Path) -> Path:
    for name in names:
        shutil.copytree(Path(run.config["data"]["root"]) / name, root / name)
    return root


def judged(run: FinishedRun, data: dict[str, Any], folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return evaluation.json, and its metrics of the cohort."""
    folder.mkdir()
    other = OtherCohort(run, data, open_cohort(run, CohortRequest(data=data)))
    evaluate_run(run, ["cohort"], folder, other)
    described = json.loads((folder / "evaluation.json").read_text())
    return described, described["splits"]["cohort"]["metrics"]


def test_the_patients_of_the_test_split_as_a_cohort_get_the_numbers_of_the_test_split(
    run: FinishedRun, evaluate: Evaluate, tmp_path: Path
) -> None:
    root = copied(run, of_split(run, "test"), tmp_path / "elsewhere")
    said = evaluate(f"data.root={root}")
    assert "only 12 cohort subjects" in said
    (folder,) = (run.path / "evaluations").glob("best_elsewhere_*")
    described = json.loads((folder / "evaluation.json").read_text())
    expected = json.loads((run.path / "evaluation.json").read_text())["splits"]["test"]["metrics"]
    found = described["splits"]["cohort"]["metrics"]
    assert found.keys() == expected.keys()
    for key, one in expected.items():
        for end in ("value", "low", "high"):
            assert found[key][end] == (one[end] and pytest.approx(one[end], abs=1e-5)), (key, end)
        assert (found[key]["n"], found[key]["reason"]) == (one["n"], one["reason"]), key
    assert described["cohort"] == {
        "name": folder.name.removeprefix("best_"),
        "data": {"root": str(root)},
        "inputs_hash": described["cohort"]["inputs_hash"],
        "left_out": [],
    }
    with (folder / "per_subject.csv").open(newline="") as file:
        rows = {row["subject_id"]: row for row in csv.DictReader(file)}
    with (run.path / "per_subject.csv").open(newline="") as file:
        own = {row["subject_id"]: row for row in csv.DictReader(file) if row["split"] == "test"}
    assert {name: row["vol_total.true_mL"] for name, row in rows.items()} == {
        name: row["vol_total.true_mL"] for name, row in own.items()
    }
    assert "exists; set overwrite=true" in evaluate(f"data.root={root}", code=2)
    page = (folder / "report.html").read_text()
    assert ">Another cohort<" in page
    assert "alidation" not in page.partition('id="trained"')[0]


def test_training_patients_are_left_out_whatever_their_files_are_called(
    run: FinishedRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    named, renamed = of_split(run, "train")[:2]
    root = cohort(copied(run, [named], tmp_path / "new"), 9, 90, 91, 92)
    for file in (Path(run.config["data"]["root"]) / renamed).iterdir():
        (root / "somebody").mkdir(exist_ok=True)
        shutil.copy(file, root / "somebody" / file.name.replace(renamed, "somebody"))
    (root / "phantom-00091" / "phantom-00091-seg.nii.gz").unlink()
    with caplog.at_level(logging.WARNING, logger="menvae"):
        described, metrics = judged(run, {"root": str(root)}, tmp_path / "first")
    assert sorted(described["cohort"]["left_out"]) == [named, "somebody"]
    assert "2 of 5 visits are left out because the run was trained on their patients" in caplog.text
    assert described["splits"]["cohort"]["subjects"] == 3
    assert metrics["sem/vol_total_r2"]["value"] is None, "one has no mask"
    assert metrics["sem/vol_total_r2"]["reason"] == "2 of 3 subjects have it; R² needs 3 that vary"
    assert metrics["diag/recon_mu_mse"]["value"] > 0.0
    for name in ("phantom-00090", "phantom-00092"):
        (root / name / f"{name}-seg.nii.gz").unlink()
    _, metrics = judged(run, {"root": str(root)}, tmp_path / "without")
    assert metrics["sem/vol_total_r2"]["reason"] == "0 of 3 subjects have it; R² needs 3 that vary"
    assert metrics["diag/reads_vol_tumour"] == {**metrics["diag/reads_vol_tumour"], "value": None}
    assert "mask" in metrics["diag/reads_vol_tumour"]["reason"]
    gates = json.loads((tmp_path / "without" / "gates.json").read_text())
    assert {gate["name"] for gate in gates["gates"] if gate["verdict"] == "not computed"} >= {"vol_r2", "leak_max"}


def test_phantoms_of_another_seed_have_the_names_of_training_patients_and_are_others(
    tmp_path: Path, prepared_cache: Path
) -> None:
    (tmp_path / "cache").symlink_to(prepared_cache)
    train(tmp_path, "~trainer.max_epochs", "trainer.max_epochs=1")
    run = menvae.load_run(only_run(tmp_path))
    described, _ = judged(run, {"seed": 101, "num_subjects": 6}, tmp_path / "others")
    assert (described["splits"]["cohort"]["subjects"], described["cohort"]["left_out"]) == (6, [])
    with (tmp_path / "others" / "per_subject.csv").open(newline="") as file:
        patients = {row["subject_id"]: row["patient_id"] for row in csv.DictReader(file)}
    trained = of_split(run, "train")
    assert patients == {name: f"{name} (cohort)" if name in trained else name for name in sorted(run.splits)[:6]}
    grown, _ = judged(run, {"num_subjects": 13}, tmp_path / "more")
    assert grown["cohort"]["left_out"] == trained, "the same seed: the same patients, and one more"


def test_a_cohort_that_has_moved_keeps_its_splits(run: FinishedRun, evaluate: Evaluate, tmp_path: Path) -> None:
    moved = shutil.copytree(run.config["data"]["root"], tmp_path / "moved")
    assert "best_test" in evaluate(f"data.root={moved}", "split=test")
    found, expected = (
        json.loads((folder / "evaluation.json").read_text())["splits"]["test"]
        for folder in (run.path / "evaluations" / "best_test", run.path)
    )
    mse = (split["metrics"]["diag/recon_mu_mse"]["value"] for split in (found, expected))
    assert next(mse) == pytest.approx(next(mse), rel=1e-5)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.modalities=[t1c]"], "data.modalities: t1c is not allowed; the model of run 'semivae_"),
        (["data.spacing_mm=[5,5,5]"], "data.spacing_mm: [5.0, 5.0, 5.0] is not allowed; the model of run 'semivae_"),
        (["data.root=EMPTY"], "data.root: "),
        (["data.root=TRAINED"], "data: all 2 visits of cohort 'TRAINED_"),
        (["data.root=NEW", "split=test"], "split: another cohort has no splits and is judged as a whole"),
        (["data.rot=NEW"], "data.rot: no such key of 'brats'; did you mean 'root'?"),
    ],
    ids=str,
)
def test_wrong_cohorts_are_refused_in_one_sentence(
    run: FinishedRun, evaluate: Evaluate, tmp_path: Path, overrides: list[str], words: str
) -> None:
    (tmp_path / "EMPTY").mkdir()
    copied(run, of_split(run, "train")[:2], tmp_path / "TRAINED")
    cohort(tmp_path / "NEW", 9, 90)
    said = evaluate(*(text.replace("root=", f"root={tmp_path}/") for text in overrides), code=2)
    errors = [line for line in said.splitlines() if line.startswith("menvae-evaluate: ")]
    assert len(errors) == 1
    assert errors[0].startswith(f"menvae-evaluate: {words}"), errors
    assert not list((run.path / "evaluations").glob("*TRAINED*")), "no half of an evaluation is left"


def test_only_the_ceiling_is_computed_for_another_cohort(
    run: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the reader of the interventions; R2 of another cohort is shown without references."""
    monkeypatch.setattr(fitting, "MOST_STEPS", 4)
    monkeypatch.setattr(fitting, "FEWEST_STEPS", 4)
    cache = run.experiment.output_dir / "references"
    for folder in cache.glob("floor_*"):  # of the end of the run
        shutil.rmtree(folder)
    data = {"root": str(cohort(tmp_path / "NEW", 9, 90, 91, 92))}
    other = OtherCohort(run, data, open_cohort(run, CohortRequest(data=data)))
    (tmp_path / "judged").mkdir()
    described = evaluate_run(run, ["cohort"], tmp_path / "judged", other, references=True)[1]
    computed = list(cache.iterdir())
    for folder in computed:  # other tests have no reader
        shutil.rmtree(folder)
    assert [folder.name.split("_")[0] for folder in computed] == ["ceiling"]
    assert "changes" in described["splits"]["cohort"]["interventions"]
    assert "references" not in described


def test_rows_of_another_table_are_judged_by_the_classes_of_the_run(tmp_path: Path) -> None:
    output_dir = shutil.copytree(FOLDER / "0.1.0" / "table", tmp_path / "table")
    path = output_dir / "table.csv"
    run = menvae.load_run(only_run(output_dir), overrides=[f"data.path={path}"])
    lines, validation = path.read_text().splitlines(), [int(name[4:]) for name in of_split(run, "val")]
    other = tmp_path / "other.csv"
    other.write_text("\n".join([lines[0], *(lines[row] for row in (*validation, 1))]) + "\n")
    described, metrics = judged(run, {"path": str(other)}, tmp_path / "judged")
    expected = {}
    for batch, output in run.outputs("val"):
        hits = (output.extras["logits"].argmax(dim=1) == batch.labels)[batch.labels >= 0]
        expected["accuracy"] = float(hits.double().mean())
    assert described["cohort"]["left_out"] == (
        [f"row-{len(validation) + 1}"] if run.splits["row-01"] == "train" else []
    )
    assert metrics["sem/class_accuracy"]["value"] == pytest.approx(expected["accuracy"])
