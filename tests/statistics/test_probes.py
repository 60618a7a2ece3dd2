"""Probes against scikit-learn, and what the quadratic probe sees that a ridge does not."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from menvae.statistics.probes import PENALTIES, QuadraticProbe, RidgeProbe


def held_out_r2(codes: np.ndarray, target: np.ndarray, fitted: int) -> tuple[float, float]:
    """R2 of the ridge and of the quadratic probe on the rows that were not fitted."""
    ridge = RidgeProbe(codes[:fitted], codes[fitted:])
    total = np.sum((target[fitted:] - target[fitted:].mean()) ** 2)
    first, second = (
        1.0 - float(np.sum((target[fitted:] - probe.predict(target[:fitted, None])[:, 0]) ** 2) / total)
        for probe in (ridge, QuadraticProbe(ridge))
    )
    return first, second


def test_ridge_is_that_of_scikit_learn_with_one_of_the_penalties() -> None:
    random = np.random.default_rng(0)
    codes = random.normal(size=(60, 7)) * np.arange(1.0, 8.0) + 5.0
    target = codes @ random.normal(size=7) + random.normal(size=60)
    predicted = RidgeProbe(codes[:50], codes[50:]).predict(target[:50, None])[:, 0]
    scaled = (codes - codes[:50].mean(axis=0)) / codes[:50].std(axis=0)
    expected = [Ridge(alpha=50 * penalty).fit(scaled[:50], target[:50]).predict(scaled[50:]) for penalty in PENALTIES]
    assert min(np.max(np.abs(predicted - other)) for other in expected) < 1e-8


@pytest.mark.parametrize("turn", [False, True], ids=["dimensions", "rotated"])
@pytest.mark.parametrize("shape", [np.abs, np.square], ids=["absolute", "square"])
def test_even_functions_of_a_code_in_84_dimensions(shape: np.ufunc, turn: bool) -> None:
    random = np.random.default_rng(1)
    codes = random.normal(size=(700, 84))
    target = shape(codes[:, 3])
    if turn:
        codes = codes @ np.linalg.qr(random.normal(size=(84, 84)))[0]
    linear, quadratic = held_out_r2(codes, target, 576)
    assert linear < 0.1
    assert quadratic > (0.4 if turn else 0.9)


def test_codes_of_noise_predict_nothing() -> None:
    random = np.random.default_rng(2)
    found = [held_out_r2(random.normal(size=(700, 84)), random.normal(size=700), 576) for _ in range(4)]
    assert np.max(found) < 0.1
    assert np.min(found) > -0.25
