"""Metrics as estimates: the values of `measure`, intervals over patients, and what a value rests on."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from numpy.typing import NDArray

from menvae.evaluation.estimates import NO_INTERVAL, estimate
from menvae.latent import LatentLayout
from menvae.metrics import Metric, MetricContext, SplitRecord, build_metrics, is_met, measure
from menvae.statistics.bootstrap import bootstrap_intervals

LAYOUT = LatentLayout({"vol": 3, "loc": 2, "residual": 3})
SUPERVISION = {"vol": ["vol_total", "vol_ed"], "loc": ["loc_x"]}
CONTEXT = MetricContext(LAYOUT, ("t1c",), (8, 8, 8), SUPERVISION, labelled=True)
ERRORS = ("errors.mu", "errors.sampled", "errors.shuffled", "errors.mean_z", "errors.z0", "final_errors.mean_image")
WITHOUT = tuple(f"{kind}.without_{name}" for kind in ("final_errors", "tumour_errors") for name in LAYOUT)


def record(num_patients: int = 30, visits: int = 1) -> SplitRecord:
    random, num = np.random.default_rng(5), num_patients * visits
    arrays: dict[str, NDArray[np.float64]] = {
        name: random.uniform(1.0, 2.0, num) for name in (*ERRORS, *WITHOUT, "tumour_errors.mu")
    }
    arrays |= {"mean": random.normal(size=(num, LAYOUT.z_dim)), "logvar": random.normal(size=(num, LAYOUT.z_dim))}
    for partition, names in SUPERVISION.items():
        true = random.normal(size=(num, len(names)))
        arrays |= {f"targets.{partition}": true, f"observed.{partition}": np.ones_like(true)}
        arrays[f"predictions.{partition}"] = true + 0.3 * random.normal(size=true.shape)
    arrays |= {"labels": np.arange(num) % 3.0, "classes": np.arange(num) % 4.0 % 3.0}
    arrays |= {"psnr": random.uniform(20.0, 30.0, (num, 1)), "ssim": random.uniform(0.5, 1.0, (num, 1))}
    subjects = tuple(f"s{row:03d}" for row in range(num))
    return SplitRecord(subjects, arrays, tuple(f"p{row // visits:03d}" for row in range(num)))


def metrics(*left_out: str) -> list[Metric]:
    return build_metrics(dict.fromkeys(("leak", *left_out)), CONTEXT)


def test_values_are_those_of_measure() -> None:
    split = record()
    found = estimate(metrics(), split).estimates
    assert {key: each.value for key, each in found.items()} == measure(metrics(), split)
    without = {key for key, each in found.items() if each.low is None}
    assert {key for key in without if not key.startswith(("disent/", "diag/au_"))} == set()
    assert {found[key].reason for key in without if key.startswith("disent/")} == {NO_INTERVAL}


@pytest.mark.parametrize("visits", [1, 3])
def test_intervals_of_means_are_those_of_a_loop_over_resamples(visits: int) -> None:
    """Patients are resampled with all their visits, and every formula is the one that a single split has."""
    split = record(20, visits)
    of_means = [each for each in metrics() if is_met(each, split) and each.means(split) is not None]
    assert len(of_means) > 15
    loop = bootstrap_intervals(lambda rows: measure(of_means, split.rows(rows)), split.patient_id)
    found = estimate(of_means, split).estimates
    assert found.keys() == loop.keys()
    for key, expected in loop.items():
        assert found[key].low == (expected.low and pytest.approx(expected.low, rel=1e-9)), key
        assert found[key].high == (expected.high and pytest.approx(expected.high, rel=1e-9)), key
        assert found[key].n == 20


def test_the_interval_of_a_mean_is_that_of_scipy() -> None:
    split = record(60)
    errors = split.arrays["errors.mu"]
    expected = scipy.stats.bootstrap((errors,), np.mean, n_resamples=20_000, random_state=1).confidence_interval
    found = estimate(metrics(), split).estimates["diag/recon_mu_mse"]
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.008)


def test_a_value_rests_on_the_patients_that_have_it() -> None:
    split = record(30)
    split.arrays["observed.vol"][8:, 1] = 0.0
    split.arrays["tumour_errors.mu"][:18] = np.nan
    found = estimate(metrics(), split).estimates
    assert found["sem/vol_total_r2"].n == 30
    assert found["diag/recon_tumour_mse"].n == found["diag/reads_vol_tumour"].n == 12
    assert found["diag/recon_tumour_mse"].low is not None
    rare = found["sem/vol_ed_r2"]
    assert (rare.n, rare.low, rare.reason) == (8, None, "an interval needs at least 10 patients; there are 8")
    assert rare.value is not None


def test_a_missing_r2_says_how_many_subjects_or_features_there_are() -> None:
    split = record(30)
    split.arrays["observed.vol"][2:, 1] = 0.0
    split.arrays["observed.loc"][5:] = 0.0
    found = estimate(metrics(), split).estimates
    assert found["sem/vol_ed_r2"].reason == "2 of 30 subjects have it; R² needs 3 that vary"
    of_loc = "0 of its 1 features vary and are observed in 10 subjects; half of them must"
    assert (found["sem/loc_r2"].value, found["sem/loc_r2"].reason) == (None, of_loc)


def test_few_patients_have_values_without_intervals() -> None:
    found = estimate(metrics(), record(9)).estimates
    assert {each.low for each in found.values()} == {None}
    assert found["diag/recon_mu_mse"].reason == "an interval needs at least 10 patients; there are 9"
    assert found["disent/mig"].value is None


def test_distance_correlations_leave_patients_out_on_the_squared_scale() -> None:
    """The interval is symmetric about the squared value, and no resample repeats a row."""
    split = record(40)
    split.arrays["mean"][:, 3:5] = split.arrays["mean"][:, :2] + 0.5 * split.arrays["mean"][:, 3:5]
    found = estimate(metrics(), split).estimates["indep/dcor_vol_loc"]
    assert found.value is not None
    assert found.low is not None
    assert found.high is not None
    assert 0.0 < found.low < found.value < found.high <= 1.0
    assert found.high**2 - found.value**2 == pytest.approx(found.value**2 - found.low**2)
    independent = estimate(metrics(), record(40)).estimates["indep/dcor_vol_loc"]
    assert independent.low is not None
    assert independent.low < 0.0 < (independent.high or 0.0)
