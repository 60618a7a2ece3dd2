"""Coverage of a distribution: closed forms, and holes that were made."""

from __future__ import annotations

import numpy as np
import pytest

from menvae.statistics.coverage import expected_coverage, neighbourhoods


def coverage(real: np.ndarray, other: np.ndarray, k: int = 5) -> float:
    return float(neighbourhoods(real, other, k).any(axis=1).mean())


@pytest.mark.parametrize(
    ("num_real", "num_other", "k", "dimensions"), [(100, 100, 5, 2), (60, 20, 3, 1), (50, 80, 1, 9)]
)
def test_equal_distributions_have_the_expected_coverage(num_real: int, num_other: int, k: int, dimensions: int) -> None:
    random = np.random.default_rng(0)
    found = [
        coverage(random.exponential(size=(num_real, dimensions)), random.exponential(size=(num_other, dimensions)), k)
        for _ in range(200)
    ]
    error = np.std(found) / np.sqrt(len(found))
    assert np.mean(found) == pytest.approx(expected_coverage(num_real, num_other, k), abs=4 * error)


def test_expected_coverage_is_that_of_the_paper() -> None:
    # k = 1: of the M - 1 + N samples around a real one, the nearest is one of the N others with equal chance for all
    assert expected_coverage(3, 4, 1) == pytest.approx(4 / 6)
    # appendix A of the paper: 1 - 1 / 2^k for many samples
    assert expected_coverage(10**6, 10**6, 5) == pytest.approx(1 - 2**-5, abs=1e-4)


def test_a_neighbourhood_is_a_closed_ball_to_the_kth_other_sample() -> None:
    real = np.array([[0.0, 0.0], [3.0, 4.0], [30.0, 40.0]])  # radii 5, 5, 45
    on_the_edge, outside = np.array([[-5.0, 0.0]]), np.array([[-5.001, 0.0]])
    assert neighbourhoods(real, on_the_edge, 1)[:, 0].tolist() == [True, False, False]
    assert not neighbourhoods(real, outside, 1).any()
    with pytest.raises(ValueError, match=r"^k=3 is not allowed; with 3 real samples it must be 1 to 2$"):
        neighbourhoods(real, outside, 3)


def test_two_separated_clusters_leave_a_hole_between_them() -> None:
    random = np.random.default_rng(1)
    prior = random.normal(size=(500, 4))
    clusters = 0.1 * random.normal(size=(500, 4)) + np.where(random.random((500, 1)) < 0.5, -3.0, 3.0)
    assert coverage(prior, clusters) < 0.02


def test_half_of_a_distribution_covers_half_of_it() -> None:
    random = np.random.default_rng(2)
    whole = random.uniform(-1.0, 1.0, size=(2000, 2))
    half = random.uniform((0.0, -1.0), (1.0, 1.0), size=(2000, 2))
    assert coverage(whole, half) == pytest.approx(0.5 * expected_coverage(2000, 4000, 5), abs=0.03)
