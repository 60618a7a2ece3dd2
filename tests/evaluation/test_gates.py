"""Which gates are listed, what is said of those without a value, and what is measured of classes and of many rows."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from menvae.evaluation.classification import class_metrics
from menvae.evaluation.gates import GateSettings, GateTable, evaluate_gates
from menvae.evaluation.independence import MOST_ROWS, independence_metrics
from menvae.latent import LatentLayout

RATIOS = {"mean_z_ratio", "shuffled_ratio"}


def judged(sizes: dict[str, int], metrics: dict[str, float | None], num_subjects: int = 100) -> GateTable:
    return evaluate_gates(metrics, GateSettings(), num_subjects, LatentLayout(sizes))


@pytest.mark.parametrize(
    ("sizes", "listed"),
    [
        ({"vol": 2, "loc": 1, "shape": 2, "residual": 3}, {"vol_r2", "loc_r2", "shape_r2", "max_dcor", "residual"}),
        ({"vol": 2, "residual": 3}, {"vol_r2", "max_dcor", "residual"}),
        ({"residual": 3}, {"residual"}),
        ({"one": 2, "two": 2}, {"max_dcor"}),
    ],
    ids=["all", "one supervised", "one", "others"],
)
def test_a_gate_is_listed_where_there_is_what_it_judges(sizes: dict[str, int], listed: set[str]) -> None:
    names = {gate.name.removesuffix("_active_units") for gate in judged(sizes, {}).gates}
    assert names == listed | RATIOS


def test_a_single_partition_is_not_judged_for_independence() -> None:
    assert judged({"residual": 3}, {}).note == "the model has a single partition, so independence is not judged"
    assert judged({"vol": 1, "residual": 3}, {}).note == ""
    assert judged({"residual": 3}, {}, 5).note.startswith("only 5 validation subjects: ")


def test_words_for_what_has_no_value() -> None:
    metrics = {"indep/dcor_vol_residual": None, "sem/vol_r2": None, "diag/au_count_residual": 3.0}
    gates = {gate.name: gate for gate in judged({"vol": 1, "residual": 4}, metrics, 1).gates}
    assert gates["max_dcor"].reason == "1 validation subject; the estimator needs more than 3"
    assert gates["vol_r2"].reason == "1 validation subject with no variance in any of its features"
    assert gates["residual_active_units"].reason == "1 validation subject has no variance"
    assert not any(gate.passed for gate in gates.values())


def test_share_of_active_units() -> None:
    (share, *_) = judged({"residual": 4}, {"diag/au_count_residual": 3.0}).gates
    assert (share.value, share.passed) == (0.75, True)


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
