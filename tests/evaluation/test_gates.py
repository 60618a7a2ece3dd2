"""Which gates are listed, and what is said of those without a value."""

from __future__ import annotations

import pytest

from menvae.evaluation.gates import GateSettings, GateTable, evaluate_gates
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
