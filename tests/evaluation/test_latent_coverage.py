"""Coverage of prior and encoded subjects, with its interval."""

from __future__ import annotations

import numpy as np
import pytest

from menvae.evaluation.estimates import estimate
from menvae.latent import LatentLayout
from menvae.metrics import MetricContext, SplitRecord
from menvae.metrics.latent_coverage import LatentCoverage
from menvae.statistics.coverage import expected_coverage
from menvae.statistics.estimate import Estimate

CONTEXT = MetricContext(LatentLayout({"vol": 2, "residual": 20}), ("t1c",), (8, 8, 8))


def coverage(mean: np.ndarray, sd: float = 1e-3) -> dict[str, Estimate]:
    arrays = {"mean": mean, "logvar": np.full(mean.shape, 2.0 * np.log(sd))}
    record = SplitRecord(tuple(f"s{row:03d}" for row in range(len(mean))), arrays)
    return dict(estimate([LatentCoverage(CONTEXT)], record).estimates)


def test_posteriors_that_are_together_the_prior_leave_no_holes() -> None:
    random = np.random.default_rng(0)
    for means, sd in ((random.normal(size=(150, 22)), 1e-3), (0.6 * random.normal(size=(150, 22)), 0.8)):
        found = coverage(means, sd)
        assert set(found) == {"diag/coverage", "diag/coverage_vol", "diag/coverage_residual"}
        for estimated in found.values():
            assert estimated.value == pytest.approx(expected_coverage(150, 150, 5), abs=0.05)
            assert estimated.low is not None
            assert estimated.high is not None
            assert 0.85 < estimated.low <= estimated.value <= estimated.high <= 1.0
            assert estimated.n == 150


def test_many_subjects_are_judged_by_evenly_spaced_ones() -> None:
    random = np.random.default_rng(0)
    arrays = {"mean": random.normal(size=(3000, 4)), "logvar": np.full((3000, 4), -14.0)}
    record = SplitRecord(tuple(f"s{row:04d}" for row in range(3000)), arrays)
    metric = LatentCoverage(MetricContext(LatentLayout({"vol": 4}), ("t1c",), (8, 8, 8)))
    assert estimate([metric], record).estimates["diag/coverage"].value == pytest.approx(0.97, abs=0.02)


@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_wrong_scales_do_not_cover_in_many_dimensions(scale: float) -> None:
    mean = scale * np.random.default_rng(1).normal(size=(150, 22))
    assert (coverage(mean)["diag/coverage_residual"].value or 0.0) < 0.1


def test_clusters_leave_holes() -> None:
    random = np.random.default_rng(2)
    mean = random.normal(size=(150, 22))
    mean[:, :2] = 0.1 * mean[:, :2] + np.where(random.random((150, 1)) < 0.5, -2.0, 2.0)
    found = coverage(mean)
    assert (found["diag/coverage_vol"].value or 0.0) < 0.1
    assert (found["diag/coverage_residual"].value or 0.0) > 0.9


def test_few_subjects_have_no_neighbourhoods() -> None:
    found = coverage(np.zeros((5, 22)))["diag/coverage"]
    assert found.value is None
    assert found.reason == "neighbourhoods of 5 need at least 6 subjects; there are 5"
