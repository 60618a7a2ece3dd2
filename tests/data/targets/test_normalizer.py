"""Targets as a model sees them: fitted on training subjects, and back to physical units."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression  # type: ignore[import-untyped]
from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]

from menvae.data.targets.normalizer import SENTINEL, TargetNormalizer, TargetSettings
from menvae.errors import UserError

FEATURES = ("vol_total", "vol_ncr", "sphericity_ncr")
Raw = dict[str, float | None]


def _subjects(num: int, seed: int = 0) -> list[Raw]:
    generator = np.random.default_rng(seed)
    found: list[Raw] = []
    for index in range(num):
        total = generator.normal(10.0, 1.0)
        core = None if index % 4 == 0 else total - 2.0 + generator.normal(0.0, 0.3)
        sphericity = None if core is None else 0.9 - 0.02 * total + 0.01 * core + generator.normal(0.0, 0.05)
        found.append({"vol_total": total, "vol_ncr": core, "sphericity_ncr": sphericity})
    return found


def _column(scored: list[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in scored])


def test_residual_and_score_are_those_of_scikit_learn() -> None:
    training = _subjects(40)
    normalizer = TargetNormalizer.fit(training, TargetSettings(), FEATURES)
    whole = [raw for raw in training if raw["vol_ncr"] is not None]
    regressors = np.array([[raw["vol_total"], raw["vol_ncr"]] for raw in whole], dtype=float)
    values = np.array([raw["sphericity_ncr"] for raw in whole], dtype=float)
    residual = values - LinearRegression().fit(regressors, values).predict(regressors)
    expected = StandardScaler().fit_transform(residual[:, None])[:, 0]
    found = _column([normalizer.normalise(raw, "sphericity_ncr") for raw in whole])
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert normalizer.normalise(training[0], "sphericity_ncr") is None, "not observed: masked"
    assert normalizer.statistics["sphericity_ncr"].num_observed == 30


def test_what_was_not_fitted_on_does_not_matter() -> None:
    training, others = _subjects(40), _subjects(10, seed=1)
    alone = TargetNormalizer.fit(training, TargetSettings(), FEATURES)
    scores = _column([alone.normalise(raw, "vol_total") for raw in others])
    mean, sd = np.mean([raw["vol_total"] for raw in training]), np.std([raw["vol_total"] for raw in training])
    np.testing.assert_allclose(scores, [(raw["vol_total"] - mean) / sd for raw in others], atol=1e-12)


@pytest.mark.parametrize(("missing", "substitute"), [("zero", 0.0), ("sentinel", SENTINEL)])
def test_substitutes_are_learnt_like_any_other_value(missing: str, substitute: float) -> None:
    training = _subjects(40)
    settings = TargetSettings(missing=missing)  # type: ignore[arg-type]
    normalizer = TargetNormalizer.fit(training, settings, FEATURES)
    filled = [{name: substitute if value is None else value for name, value in raw.items()} for raw in training]
    masked = TargetNormalizer.fit(filled, TargetSettings(), FEATURES)
    for name in FEATURES:
        assert normalizer.statistics[name] == masked.statistics[name]
        assert [normalizer.normalise(raw, name) for raw in training] == [masked.normalise(raw, name) for raw in filled]
    assert normalizer.hash != masked.hash
    back = normalizer.to_physical({name: normalizer.normalise(training[0], name) for name in FEATURES})
    assert back["vol_ncr"] == pytest.approx(substitute, abs=1e-9)


def test_there_and_back_and_through_json() -> None:
    training = _subjects(40)
    normalizer = TargetNormalizer.fit(training, TargetSettings(), FEATURES)
    again = TargetNormalizer.from_dict(json.loads(json.dumps(normalizer.as_dict())))
    assert again == normalizer
    assert again.hash == normalizer.hash
    for raw in training:
        scores: Mapping[str, float | None] = {name: again.normalise(raw, name) for name in FEATURES}
        physical = again.to_physical(scores)
        for name in FEATURES:
            wanted = raw[name]
            assert physical[name] == (None if wanted is None else pytest.approx(wanted, abs=1e-9))


def test_what_cannot_be_fitted_is_said(caplog: pytest.LogCaptureFixture) -> None:
    two: list[Raw] = [{"vol_total": 9.0, "vol_ncr": None, "sphericity_ncr": None}] * 2
    normalizer = TargetNormalizer.fit(two, TargetSettings(), FEATURES)
    assert normalizer.normalise(two[0], "vol_total") == 0.0
    assert normalizer.statistics["vol_total"].sd == 1.0
    assert normalizer.normalise(two[0], "vol_ncr") is None
    assert "constant over 2 training subjects" in caplog.text
    assert "not observed in any training subject" in caplog.text


def test_unknown_features_are_refused() -> None:
    with pytest.raises(UserError, match="'vol_all' does not exist; did you mean 'vol_total'"):
        TargetNormalizer.fit(_subjects(4), TargetSettings(residualise={"vol_ncr": ["vol_all"]}), FEATURES)
