"""Correlations of targets are those of numpy, over the subjects that have both."""

from __future__ import annotations

import math

import numpy as np
import pytest

from menvae.data.targets.correlation import entangled_words, pearson, target_correlation
from menvae.data.targets.normalizer import TargetNormalizer, TargetSettings

SUPERVISION = {"vol": ["vol_total"], "shape": ["surface_area_total", "solidity_total"]}
Raw = dict[str, float | None]


def subjects(num: int, noise: float = 0.01) -> list[Raw]:
    """Surface area follows volume closely; solidity is missing in every fifth subject."""
    random = np.random.default_rng(0)
    volume = random.normal(10.0, 1.0, num)
    area = 2.0 + 0.7 * volume + random.normal(0.0, noise, num)
    solidity = random.normal(0.8, 0.05, num)
    return [
        {
            "vol_total": float(volume[index]),
            "surface_area_total": float(area[index]),
            "solidity_total": None if index % 5 == 0 else float(solidity[index]),
        }
        for index in range(num)
    ]


def fit(training: list[Raw], residualise: dict[str, list[str]]) -> TargetNormalizer:
    names = [name for names in SUPERVISION.values() for name in names]
    return TargetNormalizer.fit(training, TargetSettings(residualise=residualise), names)


def test_before_and_after_are_those_of_numpy() -> None:
    training = subjects(50)
    found = target_correlation(training, fit(training, {"surface_area_total": ["vol_total"]}), SUPERVISION)
    table = np.array([[raw[name] for name in raw] for raw in training], dtype=float)
    whole = np.isfinite(table[:, 2])
    assert found.before[0, 1] == pytest.approx(np.corrcoef(table[:, 0], table[:, 1])[0, 1], abs=1e-12)
    assert found.before[1, 2] == pytest.approx(np.corrcoef(table[whole, 1], table[whole, 2])[0, 1], abs=1e-12)
    assert found.counts.tolist() == [[50, 50, 40], [50, 50, 40], [40, 40, 40]]
    slope, intercept = np.polyfit(table[:, 0], table[:, 1], 1)
    residual = table[:, 1] - slope * table[:, 0] - intercept
    assert found.after[0, 1] == pytest.approx(0.0, abs=1e-9), "ordinary least squares leaves nothing"
    assert found.after[1, 2] == pytest.approx(np.corrcoef(residual[whole], table[whole, 2])[0, 1], abs=1e-9)
    assert found.before[0, 1] > 0.99
    assert found.entangled == []
    assert entangled_words(found) == ""


def test_pairs_are_of_different_partitions_and_the_strongest_is_first() -> None:
    training = subjects(50)
    found = target_correlation(training, fit(training, {}), SUPERVISION)
    assert next(pair.names for pair in found.pairs) == ("vol_total", "surface_area_total")
    assert {pair.partitions for pair in found.pairs} == {("vol", "shape")}
    assert len(found.pairs) == 2


def test_what_is_not_residualised_is_named_with_its_partitions() -> None:
    training = subjects(50)
    found = target_correlation(training, fit(training, {}), SUPERVISION)
    words = entangled_words(found)
    assert "vol_total (vol) and surface_area_total (shape) r = 1.00" in words
    assert "targets.residualise" in words
    assert "\n" not in words


def test_a_few_subjects_are_not_judged() -> None:
    for num, judged in ((9, 0), (10, 1), (13, 2)):  # every fifth lacks one
        training = subjects(num)
        found = target_correlation(training, fit(training, {}), SUPERVISION)
        assert len(found.judged) == judged
        assert bool(entangled_words(found)) == (num >= 10)


def test_closed_forms() -> None:
    table = np.array([[0.0, 0.0, 5.0], [1.0, 2.0, 5.0], [2.0, 1.0, 5.0], [np.nan, 9.0, 5.0]])
    found = pearson(table)
    assert found[0, 1] == pytest.approx(0.5)  # x = 0, 1, 2 and y = 0, 2, 1
    assert found[0, 0] == pytest.approx(1.0)
    assert math.isnan(found[0, 2]), "a constant has no correlation"
    assert math.isnan(found[2, 2])


@pytest.mark.parametrize("num", [0, 1, 2])
def test_fewer_than_three_subjects_say_nothing(num: int) -> None:
    assert np.isnan(pearson(np.arange(2.0 * num).reshape(num, 2))).all()
    assert pearson(np.zeros((num, 2))).shape == (2, 2)
