"""Predictions in physical units: arrays as `TargetNormalizer.to_physical` gives them subject by subject."""

from __future__ import annotations

import numpy as np
import pytest

from menvae.data.masks.features import FEATURES
from menvae.data.targets.declaration import MASK_TARGETS, Target
from menvae.data.targets.normalizer import TargetNormalizer, TargetSettings
from menvae.data.targets.physical import denormalised, physical, physical_unit


def test_arrays_are_denormalised_as_subjects_are() -> None:
    random = np.random.default_rng(0)
    training = [dict(zip(FEATURES, random.normal(size=len(FEATURES)).tolist(), strict=True)) for _ in range(30)]
    unseen = [{**features, "vol_et": None} for features in training]
    normalizer = TargetNormalizer.fit(unseen, TargetSettings(), FEATURES)
    z_scores = {name: random.normal(size=(5, 3)) for name in FEATURES}
    found = denormalised(normalizer, z_scores)
    assert list(found) == list(FEATURES)
    assert np.isnan(found["vol_et"]).all()
    for place in np.ndindex(5, 3):
        expected = normalizer.to_physical({name: float(values[place]) for name, values in z_scores.items()})
        for name, value in expected.items():
            assert value is None or found[name][place] == pytest.approx(value, rel=1e-12, abs=1e-12), name
    without = denormalised(normalizer, {"surface_area_total": z_scores["surface_area_total"]})
    assert np.isnan(without["surface_area_total"]).all(), "its volume is not predicted"


@pytest.mark.parametrize(
    ("target", "value", "unit", "expected"),
    [
        (MASK_TARGETS["vol_total"], np.log(4201.0), "mm³", 4200.0),
        (MASK_TARGETS["surface_area_ncr"], np.log(31.0), "mm²", 30.0),
        (MASK_TARGETS["loc_x"], 0.25, "share of box", 0.25),
        (Target("log1p", "table"), np.log(3.0), "as in the table", 2.0),
        (Target("signed_log", "table"), -np.log(3.0), "as in the table", -2.0),
        (Target("years", "patient"), 63.0, "years", 63.0),
    ],
)
def test_logarithms_are_undone(target: Target, value: float, unit: str, expected: float) -> None:
    assert physical_unit(target) == unit
    assert physical(target, np.array([value]))[0] == pytest.approx(expected, rel=1e-12)
