"""Permutation tests of partitions as a metric: values of the package dcor, and p-values of what was planted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from late import Late

from menvae.evaluation.estimates import estimate
from menvae.latent import LatentLayout
from menvae.metrics import Findings, MetricContext, SplitRecord
from menvae.metrics.independence import PartitionIndependence

dcor = Late("dcor")

LAYOUT = LatentLayout({"vol": 8, "loc": 8, "residual": 2})
STATISTICS = ("dcor", "hsic", "sliced_dcor")


def record_of(num: int, seed: int, square: bool, training: SplitRecord | None = None) -> SplitRecord:
    """Return codes in which the first dimension of loc is, or is not, the square of the first of vol."""
    mean = np.random.default_rng(seed).normal(size=(num, 18))
    if square:
        mean[:, 8] = mean[:, 0] ** 2
    return SplitRecord(tuple(f"{seed}-{row:04d}" for row in range(num)), {"mean": mean}, training=training)


def judged(square: bool, num: int = 150) -> tuple[Findings, SplitRecord]:
    metric = PartitionIndependence(MetricContext(LAYOUT, ("t1c",)), num_permutations=200)
    record = record_of(num, 1, square, record_of(300, 0, square))
    return estimate([metric], record), record


def test_values_are_those_of_dcor_and_projections_are_not_diluted() -> None:
    found, record = judged(square=True)
    table = {(row["statistic"], row["first"], row["second"]): row for row in found.tables["independence"]}
    assert len(table) == 9
    mean = record.arrays["mean"]
    squared = dcor.u_distance_correlation_sqr(mean[:, :8], mean[:, 8:16])
    assert table["dcor", "vol", "loc"]["value"] == pytest.approx(np.sign(squared) * np.sqrt(abs(squared)), abs=1e-9)
    undiluted = dcor.u_distance_correlation_sqr(mean[:, :1], mean[:, 8:9])
    assert table["sliced_dcor", "vol", "loc"]["value"] == pytest.approx(np.sqrt(undiluted), abs=0.05)
    assert found.estimates["indep/sliced_dcor"].value == table["sliced_dcor", "vol", "loc"]["value"]


def test_p_values_tell_what_was_planted_from_chance() -> None:
    planted, independent = (judged(square)[0].estimates for square in (True, False))
    assert planted["indep/sliced_dcor_p"].value == pytest.approx(1 / 226, abs=2e-3), "none of 225 or so is as large"
    for statistic in STATISTICS:
        assert (independent[f"indep/{statistic}_p"].value or 0.0) > 0.05


def test_a_partition_that_does_not_vary_has_no_test() -> None:
    metric = PartitionIndependence(MetricContext(LAYOUT, ("t1c",)), num_permutations=200)
    train, record = record_of(100, 0, square=False), record_of(60, 1, square=False)
    record.arrays["mean"][:, 8:16] = 0.0
    found = estimate([metric], SplitRecord(record.subject_id, record.arrays, training=train))
    assert {each.value for each in found.estimates.values()} == {None}
    assert found.estimates["indep/hsic"].reason.startswith("partition 'loc' does not vary")
    assert found.estimates["indep/sliced_dcor"].reason.startswith("partition 'loc' does not vary")
    assert found.tables["independence"] == []


def test_it_needs_twenty_subjects_and_two_partitions() -> None:
    found, _ = judged(square=False, num=19)
    assert {each.value for each in found.estimates.values()} == {None}
    assert PartitionIndependence(MetricContext(LatentLayout({"z": 4}), ("t1c",))).names() == []


def test_directions_come_from_other_patients_than_those_that_are_judged() -> None:
    metric = PartitionIndependence(MetricContext(LAYOUT, ("t1c",)), num_permutations=200)
    training = record_of(60, 0, square=False)
    found = estimate([metric], replace(training, training=training)).estimates
    assert found["indep/sliced_dcor"].value is None
    assert found["indep/sliced_dcor"].reason == "no training patients but those that are judged"
    assert found["indep/dcor"].value is not None
