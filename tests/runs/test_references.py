"""References of runs; those of a finished run are tested with its evaluation, in test_evaluation.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from menvae.composition.experiment import Experiment
from menvae.data.source import FittedTargets
from menvae.data.targets.normalizer import RawTargets, TargetNormalizer, TargetSettings
from menvae.errors import UserError
from menvae.references.find import KINDS, identity_of
from menvae.references.floor import read_floor
from menvae.runs.references import _num_observed, check_references, reference_cohort
from menvae.runs.references_table import reference_rows
from menvae.statistics.probes import PENALTIES
from menvae.training.place import Place

CPU = torch.device("cpu")


def test_a_run_without_targets_has_no_references(compose_train: Callable[..., DictConfig]) -> None:
    experiment = Experiment.from_config(compose_train("experiment=exp1_baseline"))
    with pytest.raises(UserError, match="references: run 'vae_1' has no targets"):
        check_references(experiment, "vae_1")


def test_the_floor_of_a_table_is_a_ridge_on_its_columns(
    compose_train: Callable[..., DictConfig], tmp_path: Path
) -> None:
    overrides = ("experiment=sdp", "data.num_rows=300", "data.columns=['f{000..099}']", f"output_dir={tmp_path}")
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
    inputs["test"] = np.clip(inputs["test"], inputs["train"].min(axis=0), inputs["train"].max(axis=0))
    penalties = len(inputs["train"]) * PENALTIES
    oracle = make_pipeline(StandardScaler(), RidgeCV(penalties, alpha_per_target=True))
    oracle.fit(inputs["train"], true["train"])
    expected = r2_score(true["test"], oracle.predict(inputs["test"]), multioutput="raw_values")
    readings = read_floor(cohort).values["test"]
    found = r2_score(true["test"], [readings[name] for name in subjects], multioutput="raw_values")
    assert found == pytest.approx(expected, abs=1e-3)


def test_batches_precision_and_pairs_of_a_run_do_not_change_its_references(
    compose_train: Callable[..., DictConfig], tmp_path: Path
) -> None:
    common = ("data=phantom_growth", "data.num_patients=12", f"output_dir={tmp_path}")
    seen = []
    for overrides in (
        ("trainer.batch_size=16", "data.pairs=false"),
        ("trainer.batch_size=4", "trainer.precision=bf16", "data.pairs=true", "seed=5"),
    ):
        experiment = Experiment.from_config(compose_train(*common, *overrides))
        cohort = reference_cohort(experiment, experiment.load_data(Place(CPU, 0, 1)), CPU)
        assert cohort is not None
        epochs = [[batch.subject_id for batch in cohort.train.epoch(epoch)] for epoch in (1, 2)]
        assert {len(batch) for batch in epochs[0][:-1]} == {8}
        seen.append(([identity_of(kind, cohort) for kind in KINDS], epochs, cohort.num_observed))
        assert cohort.chunk_size == (16 if "trainer.batch_size=16" in overrides else 2)
    assert seen[0] == seen[1]


def test_targets_that_the_same_subjects_have_are_a_group() -> None:
    raw: dict[str, RawTargets] = {
        f"s{row}": {"a": 1.0 * row, "b": row % 3.0, "c": None if row < 4 else 2.0 * row, "d": None} for row in range(12)
    }
    training = list(raw)[:10]
    names = ["a", "b", "c"]
    normalizer = TargetNormalizer.fit([raw[name] for name in training], TargetSettings(residualise={}), names)
    assert _num_observed(FittedTargets(normalizer, raw, training), names) == [6, 10]


@pytest.mark.parametrize(
    "content", [{}, {"references": None}, {"references": {"val": 3}}, {"references": {"val": {"vol": 1}}}]
)
def test_rows_of_a_damaged_file_are_empty(content: dict[str, Any]) -> None:
    assert all(not any(values) for _, _, values in reference_rows(content, ["vol"]).rows)


def test_references_use_the_normalizer_of_the_run(
    compose_train: Callable[..., DictConfig], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What the normalizer says of rare and constant targets is said once."""
    tiny = ("data.num_subjects=12", "data.val_fraction=0.4", "data.roi_size=[16,16,16]", "data.spacing_mm=[10,10,10]")
    experiment = Experiment.from_config(compose_train(*tiny, f"output_dir={tmp_path}"))
    data = experiment.load_data(Place(CPU, 0, 1))
    assert any("vol_ncr" in record.getMessage() for record in caplog.records)
    caplog.clear()
    cohort = reference_cohort(experiment, data, CPU)
    assert cohort is not None
    list(cohort.batches("val"))
    assert not caplog.records
