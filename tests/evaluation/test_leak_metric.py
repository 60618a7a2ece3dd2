"""The leak of partitions as a metric: which pairs it names, and that it finds what was planted."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from handmade import LinearDecoder

from menvae.evaluation.estimates import estimate
from menvae.evaluation.final import leak_matrices
from menvae.latent import LatentLayout
from menvae.metrics import MetricContext, SplitRecord, measure
from menvae.metrics.leak import PartitionLeak

LAYOUT = LatentLayout({"vol": 3, "loc": 2, "residual": 4})
SUPERVISION = {"vol": ["vol_total"], "loc": ["loc_x"]}


def record_of(num: int, seed: int, leak: float, training: SplitRecord | None = None) -> SplitRecord:
    """Return codes in which the last dimension of the residual holds vol_total with a correlation of ``leak``."""
    random = np.random.default_rng(seed)
    mean = random.normal(size=(num, 9))
    targets = {"vol": mean[:, :1].copy(), "loc": mean[:, 3:4].copy()}
    mean[:, 8] = leak * mean[:, 0] + np.sqrt(1.0 - leak**2) * mean[:, 8]
    arrays = {"mean": mean, **{f"targets.{name}": values for name, values in targets.items()}}
    arrays |= {f"observed.{name}": np.ones_like(values) for name, values in targets.items()}
    return SplitRecord(tuple(f"{seed}-{row}" for row in range(num)), arrays, training=training)


def metric() -> PartitionLeak:
    return PartitionLeak(MetricContext(LAYOUT, ("t1c",), (8, 8, 8), SUPERVISION), num_permutations=99)


def test_names_every_target_and_foreign_partition() -> None:
    assert metric().names() == [
        *("leak/vol_total_from_loc", "leak/vol_total_from_residual"),
        *("leak/loc_x_from_vol", "leak/loc_x_from_residual", "leak/max"),
    ]
    assert PartitionLeak(MetricContext(LAYOUT, ("t1c",))).names() == []


def test_the_largest_leak_is_the_squared_correlation_that_was_planted() -> None:
    found = measure([metric()], record_of(200, 1, 0.8, record_of(400, 0, 0.8)))
    assert found["leak/vol_total_from_residual"] == pytest.approx(0.64, abs=0.08)
    assert found["leak/max"] == pytest.approx(found["leak/vol_total_from_residual"], rel=1e-12)
    assert found["leak/loc_x_from_vol"] == pytest.approx(0.0, abs=0.05)


def test_without_a_leak_the_maximum_is_zero() -> None:
    assert measure([metric()], record_of(200, 1, 0.0, record_of(400, 0, 0.0)))["leak/max"] == 0.0


def test_it_needs_training_subjects_and_ten_patients() -> None:
    assert measure([metric()], record_of(200, 1, 0.8)) == {}
    assert set(measure([metric()], record_of(9, 1, 0.8, record_of(40, 0, 0.8))).values()) == {None}


def test_the_whole_table_is_found_and_drawn_as_a_matrix() -> None:
    found = estimate([metric()], record_of(200, 1, 0.8, record_of(400, 0, 0.8)))
    table = found.tables["leaks"]
    named = {(row["target"], row["source"], row["probe"]) for row in table}
    assert named == set(product(["vol_total", "loc_x"], LAYOUT, ["ridge", "quadratic"]))
    r2, leaking = leak_matrices(LinearDecoder(dict(LAYOUT.sizes), supervision=SUPERVISION), table)
    assert r2[:, 0] == pytest.approx([1.0, 0.0, 0.64], abs=0.08), "vol_total from vol, loc, residual"
    assert r2[:, 1] == pytest.approx([0.0, 1.0, 0.0], abs=0.08)
    assert leaking.tolist() == [[False, False], [False, False], [True, False]]


def test_a_matrix_without_a_table_has_no_numbers() -> None:
    r2, leaking = leak_matrices(LinearDecoder(dict(LAYOUT.sizes), supervision=SUPERVISION), ())
    assert np.isnan(r2).all()
    assert not leaking.any()
