"""Which gates are listed, and what is measured of classes and of many rows."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from menvae.evaluation.classification import class_metrics
from menvae.evaluation.gates import GateSettings, evaluate_gates
from menvae.evaluation.independence import MOST_ROWS, independence_metrics
from menvae.latent import LatentLayout

SEMIVAE = LatentLayout({"vol": 2, "loc": 2, "shape": 2, "residual": 4})
DECODER = ["mean_z_ratio", "shuffled_ratio"]


@pytest.mark.parametrize(
    ("layout", "names"),
    [
        (SEMIVAE, ["vol_r2", "loc_r2", "shape_r2", "max_dcor", "residual_active_units", *DECODER]),
        (LatentLayout({"residual": 4}), ["residual_active_units", *DECODER]),
        (LatentLayout({"z": 4}), DECODER),
        (LatentLayout({"vol": 1, "rest": 3}), ["vol_r2", "max_dcor", *DECODER]),
    ],
)
def test_a_gate_is_listed_where_the_latent_space_has_what_it_judges(layout: LatentLayout, names: list[str]) -> None:
    table = evaluate_gates({}, GateSettings(), 100, layout)
    assert [gate.name for gate in table.gates] == names
    assert all(gate.value is None and gate.reason and not gate.passed for gate in table.gates)


def test_share_of_active_units() -> None:
    table = evaluate_gates({"diag/au_count_residual": 3.0}, GateSettings(), 100, SEMIVAE)
    assert {gate.name: gate.value for gate in table.gates}["residual_active_units"] == 0.75
    alone = evaluate_gates({"diag/au_count_residual": 0.0}, GateSettings(), 1, SEMIVAE)
    assert {gate.name: gate.reason for gate in alone.gates}["residual_active_units"].endswith("has no variance")


def test_accuracies_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    labels = np.concatenate([random.integers(0, 5, 200), np.full(20, -1), [7]]).astype(np.float64)
    predicted = np.where(random.random(221) < 0.6, labels, 0.0)
    known = labels >= 0
    found = class_metrics(labels, predicted)
    assert found["sem/class_accuracy"] == pytest.approx(accuracy_score(labels[known], predicted[known]))
    balanced = balanced_accuracy_score(labels[known], predicted[known])
    assert found["sem/class_balanced_accuracy"] == pytest.approx(balanced)


def test_without_a_label_nothing_is_known() -> None:
    assert set(class_metrics(np.full(3, -1.0), np.zeros(3)).values()) == {None}


def test_independence_of_many_rows_is_that_of_some() -> None:
    means = np.random.default_rng(0).normal(size=(2 * MOST_ROWS, 3))
    layout = LatentLayout({"a": 1, "b": 2})
    assert independence_metrics(means, layout) == independence_metrics(means[::2], layout)
    assert independence_metrics(means, LatentLayout({"all": 3})) == {}
