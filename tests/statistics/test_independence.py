"""Permutation tests against all permutations of few rows, another package, and the uniform p-values of independence."""

import itertools
import math
from collections.abc import Callable, Sequence
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from menvae.statistics.distance_correlation import u_distance_correlations_sqr
from menvae.statistics.hsic import normalised_hsic
from menvae.statistics.independence import IndependenceTest, dcor_test, hsic_test

Test = Callable[..., IndependenceTest]
both_tests = pytest.mark.parametrize(
    ("test", "correlations"), [(dcor_test, u_distance_correlations_sqr), (hsic_test, normalised_hsic)]
)


@pytest.fixture(scope="module")
def dcor() -> ModuleType:
    """The package, which compiles itself when it is imported: not in every process that collects these tests."""
    import dcor

    return dcor


def draws(num_rows: int, *num_columns: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(num_rows, columns, generator=generator, dtype=torch.float64) for columns in num_columns]


def related(num_rows: int, *num_columns: int, seed: int = 0) -> list[Tensor]:
    """Blocks of which each has something of the one before."""
    blocks = draws(num_rows, *num_columns, seed=seed)
    for before, block in itertools.pairwise(blocks):
        block[:, 0] += 0.8 * before[:, 0]
    return blocks


def margin(p: float, num: int) -> float:
    """Four standard errors of a share ``p`` of ``num`` permutations."""
    return 4.0 * math.sqrt(max(p * (1.0 - p), 1.0 / num) / num)


def all_orders(patients: Sequence[int]) -> list[list[int]]:
    """Every order of rows that keeps the visits of a patient together, in order, for patients with as many visits."""
    rows = {patient: [row for row, each in enumerate(patients) if each == patient] for patient in patients}
    found = []
    for images in itertools.permutations(rows):
        if all(len(rows[a]) == len(rows[b]) for a, b in zip(rows, images, strict=True)):
            order = [0] * len(patients)
            for patient, image in zip(rows, images, strict=True):
                for place, row in zip(rows[patient], rows[image], strict=True):
                    order[place] = row
            found.append(order)
    return found


@both_tests
@pytest.mark.parametrize("patients", [range(6), [0, 0, 1, 1, 2, 2, 3, 3], [0, 1, 1, 2, 3, 3, 4, 5]], ids=str)
def test_agrees_with_all_permutations(
    test: Test, correlations: Callable[[list[Tensor]], Tensor], patients: Sequence[int]
) -> None:
    """The last has two patients with two visits, which change places, and four with one."""
    x, y = related(len(patients), 2, 1, seed=1)
    values = np.array([correlations([x, y[order]])[0, 1].item() for order in all_orders(patients)])
    expected = np.mean(values >= values[0] - 1e-9)
    found = test([x, y], patients, num_permutations=20_000)
    assert found.values[0] == pytest.approx(values[0], abs=1e-12)
    assert found.p_values[0] == pytest.approx(expected, abs=margin(expected, 20_000))
    assert found.family_wise[0] == found.p_values[0] == found.p_largest


@both_tests
def test_largest_of_three_pairs_agrees_with_all_permutations(
    test: Test, correlations: Callable[[list[Tensor]], Tensor]
) -> None:
    x, y, z = related(4, 1, 2, 1, seed=5)
    orders = list(itertools.permutations(range(4)))
    arranged = [correlations([x, y[list(a)], z[list(b)]]).numpy() for a in orders for b in orders]
    null = np.array([[each[0, 1], each[0, 2], each[1, 2]] for each in arranged])
    found = test([x, y, z], range(4), num_permutations=20_000)
    assert found.values == pytest.approx(null[0], abs=1e-12)
    for pair in range(3):
        alone = np.mean(null[:, pair] >= null[0, pair] - 1e-9)
        assert found.p_values[pair] == pytest.approx(alone, abs=margin(alone, 20_000))
        largest = np.mean(null.max(axis=1) >= null[0, pair] - 1e-9)
        assert found.family_wise[pair] == pytest.approx(largest, abs=margin(largest, 20_000))
    assert found.p_largest == found.family_wise[found.values.argmax()]
    assert found.chance == pytest.approx(np.quantile(null.max(axis=1), 0.95), abs=0.02)


@pytest.mark.parametrize("strength", [0.0, 0.25, 0.35])
def test_p_value_agrees_with_the_dcor_package(dcor: ModuleType, strength: float) -> None:
    """Its statistic is biased, which changes p-values less than 1,000 permutations do."""
    x, y = draws(120, 3, 2)
    y[:, 0] += strength * x[:, 0]
    expected = dcor.independence.distance_covariance_test(
        x.numpy(), y.numpy(), num_resamples=1000, random_state=0
    ).pvalue
    found = dcor_test([x, y], range(120))
    assert found.num_permutations >= 1000
    assert found.p_values[0] == pytest.approx(expected, abs=math.sqrt(2.0) * margin(expected, 1000) + 1e-9)


def test_monte_carlo_error_is_that_of_independent_permutations() -> None:
    """The standard deviation over seeds is sqrt(p (1 - p) / R), though permutations are reused."""
    blocks = draws(30, 2, 3, 2, 1, seed=3)
    found = [dcor_test(blocks, range(30), num_permutations=120, seed=seed) for seed in range(400)]
    for p_values in (np.array([each.p_values[0] for each in found]), np.array([each.p_largest for each in found])):
        p = p_values.mean()
        assert 0.1 < p < 0.95
        assert p_values.std() == pytest.approx(math.sqrt(p * (1.0 - p) / 120), rel=0.15)


@both_tests
def test_p_values_of_independent_blocks_are_uniform(test: Test, correlations: Callable[[list[Tensor]], Tensor]) -> None:
    """At most 5 % below 5 %, for one pair and for the largest of six, where p-values are multiples of 1 / 25."""
    found = [test(draws(24, 2, 5, 1, 3, seed=seed), range(24), num_permutations=24, seed=seed) for seed in range(500)]
    for p_values in (np.array([each.p_values[0] for each in found]), np.array([each.p_largest for each in found])):
        for level in (0.04, 0.2, 0.52):
            assert np.mean(p_values < level + 1e-9) == pytest.approx(level, abs=margin(level, 500))


def test_visits_of_a_patient_count_once() -> None:
    """Blocks that differ between patients only: rows that are taken for patients reject almost always."""
    patients = [patient for patient in range(30) for _ in range(3 + patient % 2)]
    rejected = {"patients": 0, "rows": 0}
    for seed in range(120):
        x, y = (
            block[patients] + 0.05 * noise
            for block, noise in zip(draws(30, 1, 1, seed=seed), draws(105, 1, 1, seed=seed + 999), strict=True)
        )
        for name, units in (("patients", patients), ("rows", range(105))):
            rejected[name] += dcor_test([x, y], units, num_permutations=120, seed=seed).p_largest <= 0.05
    assert rejected["patients"] / 120 == pytest.approx(0.05, abs=margin(0.05, 120))
    assert rejected["rows"] > 40


def test_dependence_without_correlation_is_found() -> None:
    x, noise = draws(200, 1, 3)
    y = torch.cat([x.square(), noise], dim=1)
    for test in (dcor_test, hsic_test):
        found = test([x, y, noise[:, :1] * 0 + draws(200, 1, seed=9)[0]], range(200))
        assert found.largest == found.values[0]
        assert found.p_largest == found.p_values[0] == 1.0 / (found.num_permutations + 1)
        assert found.chance < found.largest
        assert found.p_values[1] > 0.01


def test_arrangements_that_change_nothing_are_ties() -> None:
    """Each patient has both values, so all statistics are equal but for rounding; single rows are told apart."""
    x = torch.tensor([[0.0], [1.0]]).repeat(20, 1)
    found = dcor_test([x, 3.0 * x], range(40), num_permutations=120)
    assert found.p_largest == pytest.approx(1.0 / 121)
    patients = [row // 2 for row in range(40)]  # every patient has one visit of each kind
    assert dcor_test([x, 3.0 * x], patients, num_permutations=120).p_largest == 1.0


def test_same_seed_same_p_values() -> None:
    blocks = draws(40, 2, 3)
    found = [dcor_test(blocks, range(40), seed=seed).p_largest for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(("wanted", "used"), [(19, 24), (24, 24), (120, 120), (121, 168), (960, 960), (1000, 1368)])
def test_number_of_permutations_is_a_square_of_a_prime_less_1(wanted: int, used: int) -> None:
    assert dcor_test(draws(8, 1, 1), range(8), num_permutations=wanted).num_permutations == used


def test_many_blocks() -> None:
    """More blocks than an orthogonal array of 25 arrangements has columns."""
    found = dcor_test(draws(10, *[1] * 9), range(10), num_permutations=19)
    assert (found.num_permutations, found.values.shape) == (120, (36,))


@both_tests
@pytest.mark.parametrize(
    ("block", "words"),
    [
        (torch.full((12, 2), 0.1), "block 1 does not vary"),
        (torch.eye(12)[:, :1], "block 1 does not vary: it is constant, or constant except for one row"),
        (torch.tensor([math.nan, math.inf] * 6)[:, None], "block 1 has 12 values that are not finite"),
        (torch.zeros(11, 1), "block 1 has 11 rows for 12 rows of patients"),
    ],
    ids=["constant", "one row", "NaN", "rows"],
)
def test_bad_blocks(test: Test, correlations: object, block: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        test([draws(12, 2)[0], block], range(12))


@both_tests
def test_bad_arguments(test: Test, correlations: object) -> None:
    x, y = draws(12, 1, 1)
    with pytest.raises(ValueError, match="at least 2 blocks, got 1"):
        test([x], range(12))
    with pytest.raises(ValueError, match="num_permutations=18 is not allowed"):
        test([x, y], range(12), num_permutations=18)
    with pytest.raises(ValueError, match="statistic of 3 rows is undefined"):
        test([x[:3], y[:3]], range(3))
    with pytest.raises(ValueError, match="3 patients can be permuted in 6 ways"):
        test([x, y], [0, 1, 2] * 4)
    with pytest.raises(ValueError, match="2 patients can be permuted in 1 way, as only patients with equal"):
        test([x, y], [0] * 5 + [1] * 7)
