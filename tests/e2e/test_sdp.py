"""The projection of a table of frozen features: as good as ridge regression, and without leaks."""

from __future__ import annotations

import numpy as np
import pytest
import runs
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score

from menvae import load_run
from menvae.runs.finished import FinishedRun

Table = tuple[NDArray[np.float32], NDArray[np.float32], dict[str, NDArray[np.float32]], dict[str, NDArray[np.float32]]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    output_dir = tmp_path_factory.mktemp("sdp")
    runs._run("train", ["experiment=sdp", "tracking.enabled=false", f"output_dir={output_dir}"], runs.environment(), 0)
    return load_run(runs.only_run(output_dir))


def table(run: FinishedRun, split: str) -> Table:
    """Return features, latents, and targets and predictions by partition."""
    ((batch, output),) = run.outputs(split)  # type: ignore[arg-type]
    targets = {name: values.numpy() for name, values in batch.targets.items()}
    predictions = {name: values.numpy() for name, values in output.predictions.items()}
    return batch.inputs.numpy(), output.posterior.mean.numpy(), targets, predictions


def test_every_group_reaches_98_percent_of_ridge_regression(finished: FinishedRun) -> None:
    features, _, targets, _ = table(finished, "train")
    of_test, _, true, predicted = table(finished, "test")
    for partition, values in targets.items():
        ridge = RidgeCV(np.logspace(0, 5, 26)).fit(features, values)
        ceiling = r2_score(true[partition], ridge.predict(of_test))
        assert r2_score(true[partition], predicted[partition]) > 0.98 * ceiling, partition


def test_no_partition_tells_the_targets_of_another(finished: FinishedRun) -> None:
    _, latents, targets, _ = table(finished, "train")
    _, of_test, true, _ = table(finished, "test")
    layout = finished.model.layout
    for source in layout:
        columns = slice(*layout.bounds(source))
        for partition in targets.keys() - {source}:
            ridge = RidgeCV(np.logspace(-2, 4, 13)).fit(latents[:, columns], targets[partition])
            leak = r2_score(true[partition], ridge.predict(of_test[:, columns]), multioutput="raw_values")
            assert leak.max() < 0.1, (source, partition, leak)


def test_gates_of_the_reports_pass(finished: FinishedRun) -> None:
    gates = runs.gates(finished.path)
    assert all(gates[name]["passed"] for name in ("vol_r2", "loc_r2", "shape_r2", "max_dcor", "mean_z_ratio"))
