"""A cross-validation of a table from training to comparison."""

from __future__ import annotations

import csv
import statistics
from pathlib import Path

import numpy as np
import pytest
import runs

from menvae.comparison.compare import ComparisonSettings, compare
from menvae.comparison.out_of_fold import with_out_of_fold
from menvae.comparison.tracked_runs import RunStore
from menvae.tracking.tracker import TrackingSettings

NUM_FOLDS, NUM_ROWS = 2, 120


@pytest.fixture(scope="module")
def output_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of all folds for one seed."""
    path = tmp_path_factory.mktemp("folds")
    size = (f"data.num_rows={NUM_ROWS}", "data.num_holes=12", "data.num_classes=4", "trainer.max_epochs=1")
    undrawn = [override for override in runs.TINY if override.startswith(("+pictures", "pictures"))]
    for fold in range(NUM_FOLDS):
        folds = (f"data.fold={fold}", f"data.num_folds={NUM_FOLDS}", "trainer.batch_size=32")
        arguments = ["experiment=table_semivae", *size, *undrawn, *folds, f"output_dir={path}"]
        runs._run("train", arguments, runs.environment(), 0)
    return path


def test_every_row_is_judged_once_by_the_model_that_has_not_seen_it(output_dir: Path) -> None:
    store = RunStore.open(TrackingSettings(), output_dir)
    found, notes = store.runs()
    comparison = with_out_of_fold(compare(found, ComparisonSettings()), store)
    assert (notes, comparison.keys) == ([], ())
    (cohort,) = comparison.cohorts
    pooled = cohort.out_of_fold[1]
    assert len(cohort.targets_hashes) == NUM_FOLDS
    assert pooled.num_subjects == NUM_ROWS
    rows = []
    for run in (output_dir / "runs").iterdir():
        with (run / "splits.csv").open(newline="") as file:
            seen = {row["subject_id"] for row in csv.DictReader(file) if row["split"] != "test"}
        with (run / "per_subject.csv").open(newline="") as file:
            judged = [row for row in csv.DictReader(file) if row["split"] == "test"]
        assert not seen & {row["subject_id"] for row in judged}
        rows += judged
    errors = statistics.fmean(float(row["errors.mu"]) for row in rows)
    assert pooled.metrics["diag/recon_mu_mse"].mean == pytest.approx(errors)
    columns = np.array([[float(row[f"natural_gamma.{what}"]) for what in ("true", "predicted")] for row in rows])
    true, predicted = (np.sign(columns) * np.log1p(np.abs(columns))).T  # data.transforms: signed_log
    r2 = 1.0 - np.sum((true - predicted) ** 2) / np.sum((true - true.mean()) ** 2)
    assert pooled.metrics["sem/natural_gamma_r2"].mean == pytest.approx(r2, rel=1e-6)
    interval = pooled.metrics["sem/natural_gamma_r2"].interval
    assert interval is not None
    assert interval[0] < r2 < interval[1]
