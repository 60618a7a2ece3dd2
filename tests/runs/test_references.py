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
from menvae.errors import UserError
from menvae.references.floor import read_floor
from menvae.runs.references import check_references, reference_cohort
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
    penalties = len(inputs["train"]) * PENALTIES
    oracle = make_pipeline(StandardScaler(), RidgeCV(penalties, alpha_per_target=True))
    oracle.fit(inputs["train"], true["train"])
    expected = r2_score(true["test"], oracle.predict(inputs["test"]), multioutput="raw_values")
    readings = read_floor(cohort).values["test"]
    found = r2_score(true["test"], [readings[name] for name in subjects], multioutput="raw_values")
    assert found == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    "content", [{}, {"references": None}, {"references": {"val": 3}}, {"references": {"val": {"vol": 1}}}]
)
def test_rows_of_a_damaged_file_are_empty(content: dict[str, Any]) -> None:
    assert all(not any(values) for _, _, values in reference_rows(content, ["vol"]).rows)
