"""Calibration of predictions: closed forms, and a linear Gaussian model whose true posterior is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from torch import Tensor

from menvae.conformance.pictures import LinearModel
from menvae.evaluation.estimates import estimate
from menvae.evaluation.metrics import SplitRecorder
from menvae.latent import LatentLayout
from menvae.metrics import MetricContext, SplitRecord, measure
from menvae.metrics.coverage import Coverage
from menvae.metrics.standardised_error import StandardisedError
from menvae.pictures.drawing.calibration import observed_coverage
from menvae.types import Batch, Posterior

Floats = NDArray[np.float64]

LAYOUT = LatentLayout({"vol": 2, "residual": 1})
SUPERVISION = {"vol": ["vol_a", "vol_b"]}
CONTEXT = MetricContext(LAYOUT, ("t1c",), (2, 2, 2), SUPERVISION)
METRICS = [Coverage(CONTEXT), StandardisedError(CONTEXT)]


def quantiles(num: int) -> Floats:
    """Return numbers distributed like a standard normal, without chance."""
    return np.asarray(ndtri((np.arange(num) + 0.5) / num))


def record_of(
    errors: Floats, spread: float, training: SplitRecord | None = None, unseen: tuple[int, ...] = ()
) -> SplitRecord:
    """Return a record of predictions 1 and errors [N], the same for both targets."""
    both = np.stack([errors, errors], axis=1)
    observed = np.ones_like(both)
    observed[list(unseen)] = 0.0
    arrays = {"mean": np.zeros((len(errors), 3)), "targets.vol": 1.0 + both, "observed.vol": observed}
    arrays |= {"predictions.vol": np.ones_like(both), "spread.vol": np.full_like(both, spread)}
    return SplitRecord(tuple(f"s{row:05d}" for row in range(len(errors))), arrays, training=training)


def of(errors: Floats, spread: float, training_errors: Floats, unseen: tuple[int, ...] = ()) -> dict[str, float | None]:
    return measure(METRICS, record_of(errors, spread, record_of(training_errors, spread), unseen))


# --- closed forms -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0])
def test_errors_that_are_larger_than_predicted_are_covered_less(ratio: float) -> None:
    """If errors have ``ratio`` times the predicted deviation, an interval of level c covers 2 Phi(q_c / ratio) - 1."""
    unit = quantiles(4001)
    unit /= np.sqrt(np.mean(unit**2))
    found = of(3.0 * ratio * unit, 4.0, 3.0 * unit)  # predicted variance: spread 4 and noise 5
    for level in (0.5, 0.95):
        expected = 2.0 * ndtr(ndtri(0.5 + 0.5 * level) / ratio) - 1.0
        assert found[f"calib/vol_coverage{round(100 * level)}"] == pytest.approx(expected, abs=2e-3)
    assert found["calib/vol_a_coverage95"] == found["calib/vol_coverage95"]
    for name in ("vol", "vol_a", "vol_b"):
        assert found[f"calib/{name}_standardised_error"] == pytest.approx(ratio)
    assert found["calib/vol_standardised_error_of_posterior"] == pytest.approx(3.0 * ratio / 2.0)


def test_a_posterior_wider_than_the_training_errors_leaves_no_noise() -> None:
    unit = quantiles(1001)
    found = of(unit, 4.0, 0.1 * unit)
    assert found["calib/vol_standardised_error"] == found["calib/vol_standardised_error_of_posterior"]
    assert found["calib/vol_standardised_error"] == pytest.approx(0.5, abs=0.01)


def test_targets_that_were_not_observed_count_nowhere() -> None:
    unit = quantiles(100)
    outlier = np.append(unit, [50.0, -50.0])
    assert of(outlier, 1.0, unit, unseen=(100, 101)) == pytest.approx(of(unit, 1.0, unit))


def test_with_nine_training_subjects_the_noise_is_unknown_and_with_ten_it_is_not() -> None:
    unit = quantiles(40)
    known = of(unit, 1.0, unit[:10])
    assert None not in known.values()
    unknown = of(unit, 1.0, unit[:9])
    assert {key for key, value in unknown.items() if value is not None} == {
        "calib/vol_standardised_error_of_posterior"
    }, "which does not depend on the noise"


def test_an_exact_prediction_is_calibrated_and_an_error_where_none_is_predicted_is_not() -> None:
    exact = of(np.zeros(20), 0.0, np.zeros(20))
    assert (exact["calib/vol_coverage95"], exact["calib/vol_standardised_error"]) == (1.0, 0.0)
    wrong = of(np.ones(20), 0.0, np.zeros(20))
    assert (wrong["calib/vol_coverage95"], wrong["calib/vol_standardised_error"]) == (0.0, None)


def test_without_training_subjects_or_heads_there_is_nothing() -> None:
    assert measure(METRICS, record_of(quantiles(20), 1.0)) == {}
    assert Coverage(replace(CONTEXT, supervision={})).names() == []


def test_interval_is_over_patients() -> None:
    unit = quantiles(200)
    found = estimate(METRICS, record_of(unit, 0.0, record_of(unit, 0.0))).estimates["calib/vol_coverage95"]
    assert found.value == pytest.approx(0.95)
    assert found.low is not None
    assert found.high is not None
    half = 1.96 * math.sqrt(0.95 * 0.05 / 200)  # of a share: both targets are the same
    assert found.high - found.low == pytest.approx(2.0 * half, rel=0.3)


def test_diagram_of_errors_that_are_normal_is_the_diagonal() -> None:
    nominal = np.linspace(0.0, 1.0, 101)
    assert observed_coverage(quantiles(10_000), nominal) == pytest.approx(nominal, abs=1e-3)
    twice = observed_coverage(2.0 * quantiles(10_000), nominal[1:-1])
    assert twice == pytest.approx(2.0 * ndtr(ndtri(0.5 + 0.5 * nominal[1:-1]) / 2.0) - 1.0, abs=1e-3)


# --- a linear Gaussian model ------------------------------------------------------------------------------------------

WEIGHT, NOISE = torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0.5, 1.5])


class TwoFactors(LinearModel):
    """Predicts y' = z W of the first two dimensions of z."""

    def __init__(self) -> None:
        super().__init__(LAYOUT, SUPERVISION, (1, 2, 2, 2))

    def predict(self, mean: Tensor) -> dict[str, Tensor]:
        return {"vol": mean[:, :2] @ WEIGHT}


def simulated(num: int, seed: int, narrowed: float, training: SplitRecord | None = None) -> SplitRecord:
    """Return subjects with z ~ N(0, I), x = z + N(0, v), y = z W + noise, and the posterior of z given x.

    It is N(x / (1 + v), v / (1 + v)) in each dimension; half of the subjects have v = 0.25, the others v = 1. Its
    variance is multiplied by ``narrowed``.
    """
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(num, 3, generator=generator)
    v = torch.where(torch.arange(num) % 2 == 0, 0.25, 1.0)[:, None]
    x = z + v.sqrt() * torch.randn(num, 3, generator=generator)
    y = z[:, :2] @ WEIGHT + NOISE * torch.randn(num, 2, generator=generator)
    names = tuple(f"{seed}-{row:05d}" for row in range(num))
    batch = Batch(torch.zeros(num, 1, 2, 2, 2), names, targets={"vol": y}, observed={"vol": torch.ones(num, 2) > 0})
    posterior = Posterior(x / (1 + v), (narrowed * v / (1 + v)).log().expand(num, 3))
    recorder = SplitRecorder(TwoFactors())
    recorder.record_predictions(batch, posterior)
    return replace(recorder.record(), training=training)


@pytest.fixture(scope="module")
def true_posterior() -> SplitRecord:
    return simulated(1000, 1, 1.0, simulated(1000, 0, 1.0))


def test_spread_is_that_of_a_linear_head(true_posterior: SplitRecord) -> None:
    """V = sigma^2 (W^2 summed over the dimensions of z); 256 draws leave 9 % of chance, less over many subjects."""
    variance = np.where(np.arange(1000) % 2 == 0, 0.2, 0.5)[:, None] * np.array([4.0, 10.0])
    ratio = true_posterior.arrays["spread.vol"] / variance
    assert ratio.mean() == pytest.approx(1.0, abs=0.01)
    assert ratio.std() == pytest.approx(math.sqrt(2.0 / 256), rel=0.15)


def test_the_true_posterior_is_calibrated_for_certain_and_uncertain_subjects(true_posterior: SplitRecord) -> None:
    for rows in (np.arange(1000), np.arange(0, 1000, 2), np.arange(1, 1000, 2)):
        some = true_posterior.rows(rows.astype(np.intp))
        found = measure(METRICS, some)
        assert found["calib/vol_coverage50"] == pytest.approx(0.50, abs=0.06)
        assert found["calib/vol_coverage95"] == pytest.approx(0.95, abs=0.03)
        assert found["calib/vol_standardised_error"] == pytest.approx(1.0, abs=0.07)


def test_the_true_posterior_alone_is_narrower_than_errors_by_the_noise(true_posterior: SplitRecord) -> None:
    """Mean over targets and subjects of (V + s^2) / V, with V as above and s^2 = 0.25 and 2.25."""
    shares = [1.0 + noise / (v * weight) for v in (0.2, 0.5) for noise, weight in ((0.25, 4.0), (2.25, 10.0))]
    found = measure(METRICS, true_posterior)["calib/vol_standardised_error_of_posterior"]
    assert found == pytest.approx(math.sqrt(np.mean(shares)), rel=0.04)


def test_a_posterior_that_is_four_times_too_narrow_is_found() -> None:
    found = measure(METRICS, simulated(1000, 1, 0.25, simulated(1000, 0, 0.25)))
    shares = [1.0 + noise / (v * weight) for v in (0.2, 0.5) for noise, weight in ((0.25, 4.0), (2.25, 10.0))]
    expected = math.sqrt(4.0 * np.mean(shares))
    assert found["calib/vol_standardised_error_of_posterior"] == pytest.approx(expected, rel=0.04)
