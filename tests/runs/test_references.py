"""References of runs: beside R2 in evaluation.json, the report and the terminal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from runs import menvae_evaluate, only_run, train
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import menvae
from menvae.composition.experiment import Experiment
from menvae.errors import UserError
from menvae.references import fitting
from menvae.references.find import find_references
from menvae.references.floor import read_floor
from menvae.references.store import ReferenceStore
from menvae.runs.references import ceiling_reader, check_references, reference_cohort
from menvae.runs.references_table import reference_rows
from menvae.training.place import Place

CPU = torch.device("cpu")
SUPERVISED = {"vol": 4, "loc": 3, "shape": 6}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose validation and test split have 12 patients each."""
    path = tmp_path_factory.mktemp("references")
    split = ("~data.num_subjects", "~data.val_fraction", "~data.test_fraction", "~trainer.max_epochs")
    sizes = ("data.num_subjects=40", "data.val_fraction=0.3", "data.test_fraction=0.3", "trainer.max_epochs=1")
    train(path, *split, *sizes, "+metrics.leak=null")
    return only_run(path)


def described(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "evaluation.json").read_text())
    return loaded


def test_the_end_of_a_run_shows_its_floor(run: Path) -> None:
    found = described(run)["references"]
    assert set(found) == {"val", "test"}
    for of_split in found.values():
        assert len(of_split) == sum(SUPERVISED.values()) + len(SUPERVISED)
        assert {kind for kinds in of_split.values() for kind in kinds} == {"floor"}
        assert of_split["vol_total"]["floor"]["n"] == 12
        mean = np.mean([of_split[name]["floor"]["value"] for name in ("loc_x", "loc_y", "loc_z")])
        assert of_split["loc"]["floor"]["value"] == pytest.approx(mean)
        assert of_split["loc"]["floor"]["low"] < of_split["loc"]["floor"]["value"] < of_split["loc"]["floor"]["high"]
    page = (run / "report.html").read_text()
    assert "R² beside references" in page
    assert "Segment, then measure" in page


def test_references_in_the_cache_are_shown_beside_r2(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = menvae.load_run(run)
    assert ceiling_reader(loaded.experiment, loaded.data, CPU) is None
    cohort = reference_cohort(loaded.experiment, loaded.data, CPU)
    assert cohort is not None
    monkeypatch.setattr(fitting, "MOST_STEPS", 8)
    monkeypatch.setattr(fitting, "FEWEST_STEPS", 4)
    find_references(cohort, ReferenceStore(loaded.experiment.output_dir), compute=True)
    cached = run.parent.parent / "references"
    before = {path: path.read_bytes() for path in cached.rglob("*") if path.is_file()}
    assert {path.parent.name.split("_")[0] for path in before} == {"floor", "ceiling", "segmented"}

    said = menvae_evaluate(run.parent.parent, f"run={run.name}", "references=true")
    assert {path: path.read_bytes() for path in cached.rglob("*") if path.is_file()} == before
    assert "segment, then measure" in said
    found = described(run / "evaluations" / "best_val_test")
    assert {kind for kinds in found["references"]["test"].values() for kind in kinds} == {
        *("floor", "ceiling", "segmented")
    }
    assert found["references"]["val"]["vol"]["floor"] == described(run)["references"]["val"]["vol"]["floor"]
    reader = ceiling_reader(loaded.experiment, loaded.data, CPU)
    assert reader is not None
    assert reader.read(torch.zeros(2, 4, 16, 16, 16)).shape == (2, sum(SUPERVISED.values()))


def test_a_run_without_targets_has_no_references(compose_train: Callable[..., DictConfig]) -> None:
    experiment = Experiment.from_config(compose_train("experiment=exp1_baseline"))
    with pytest.raises(UserError, match="references: run 'vae_1' has no targets"):
        check_references(experiment, "vae_1")


def test_the_floor_of_a_table_is_a_ridge_on_its_columns(
    compose_train: Callable[..., DictConfig], tmp_path: Path
) -> None:
    overrides = ("experiment=sdp", "data.num_rows=300", "data.columns=['f{00..39}']", f"output_dir={tmp_path}")
    experiment = Experiment.from_config(compose_train(*overrides))
    data = experiment.load_data(Place(CPU, 0, 1))
    cohort = reference_cohort(experiment, data, CPU)
    assert cohort is not None
    assert not cohort.spacing_mm
    inputs, true, subjects = {}, {}, []
    for split in ("train", "test"):
        batches = list(cohort.batches(split))
        inputs[split] = np.concatenate([batch.inputs.numpy() for batch in batches])
        true[split] = np.concatenate([cohort.truth(batch)[0].numpy() for batch in batches])
        subjects = [subject for batch in batches for subject in batch.subject_id]
    oracle = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 6, 40)))
    oracle.fit(inputs["train"], true["train"])
    expected = r2_score(true["test"], oracle.predict(inputs["test"]), multioutput="raw_values")
    readings = read_floor(cohort).values["test"]
    found = r2_score(true["test"], [readings[name] for name in subjects], multioutput="raw_values")
    assert found == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize(
    "content", [{}, {"references": None}, {"references": {"val": 3}}, {"references": {"val": {"vol": 1}}}]
)
def test_rows_of_a_damaged_file_are_empty(content: dict[str, Any]) -> None:
    assert all(not any(values) for _, _, values in reference_rows(content, ["vol"]))
