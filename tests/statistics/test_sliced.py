"""Max-sliced distance correlation against closed forms, the dilution of the plain one, and independent blocks."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from menvae.statistics.bootstrap import jackknife_intervals
from menvae.statistics.distance_correlation import u_distance_correlation_sqr
from menvae.statistics.independence import IndependenceTest, dcor_test
from menvae.statistics.sliced import most_dependent_directions, sliced_correlations_sqr, sliced_dcor_test


def draws(num_rows: int, *num_columns: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(num_rows, columns, generator=generator, dtype=torch.float64) for columns in num_columns]


def rotated(block: Tensor, seed: int) -> Tensor:
    size = block.shape[1]
    return block @ torch.linalg.qr(draws(size, size, seed=seed)[0]).Q


def with_square(num_rows: int, num_noise: int, rotate: bool = False) -> list[Tensor]:
    """The issue's example: v against v^2, with dimensions of noise on each side."""
    v, left, right = draws(num_rows, 1, num_noise, num_noise, seed=num_noise)
    blocks = [torch.cat([v, left], dim=1), torch.cat([v.square(), right], dim=1)]
    return [rotated(block, seed) for seed, block in enumerate(blocks)] if rotate else blocks


def judged(blocks: list[Tensor], num_fit: int, num_permutations: int = 120) -> IndependenceTest:
    """Directions from the first rows, the test from the others."""
    directions = most_dependent_directions([block[:num_fit] for block in blocks], range(num_fit))
    rest = [block[num_fit:] for block in blocks]
    return sliced_dcor_test(rest, directions, range(len(rest[0])), num_permutations=num_permutations)


@pytest.mark.parametrize(("num_noise", "plain"), [(0, 0.54), (1, 0.33), (3, 0.19), (7, 0.11)])
@pytest.mark.parametrize("rotate", [False, True], ids=["dimensions", "rotated"])
def test_noise_dilutes_the_plain_one_only(num_noise: int, plain: float, rotate: bool) -> None:
    """The largest of two projections is that of v and v^2, .54, with any number of dimensions of noise."""
    blocks = with_square(3000, num_noise, rotate)
    rest = [block[1500:] for block in blocks]
    assert math.sqrt(u_distance_correlation_sqr(*rest).item()) == pytest.approx(plain, abs=0.03)
    found = judged(blocks, 1500)
    assert math.sqrt(found.largest) == pytest.approx(0.54, abs=0.03)
    assert found.p_largest == pytest.approx(1.0 / 121)


def test_few_subjects_find_it_where_the_plain_one_does_not() -> None:
    blocks = with_square(300, 12)
    assert dcor_test([block[150:] for block in blocks], range(150)).p_largest > 0.05
    found = judged(blocks, 150, 1000)
    assert found.largest > 0.2
    assert found.p_largest < 0.001


@pytest.mark.parametrize("r", [0.5, 0.8])
def test_canonical_correlation_in_closed_form(r: float) -> None:
    """Of normal variables with correlation r (Szekely, Rizzo & Bakirov 2007, theorem 7), the only canonical one."""

    def g(value: float) -> float:
        inner = value * math.asin(value) + math.sqrt(1.0 - value**2)
        return inner - value * math.asin(value / 2.0) - math.sqrt(4.0 - value**2) + 1.0

    x, y = draws(3000, 6, 4)
    y[:, 0] = r * x[:, 0] + math.sqrt(1.0 - r * r) * y[:, 0]
    found = judged([rotated(x, 1), rotated(y, 2)], 2000)
    assert found.largest == pytest.approx(g(r) / g(1.0), abs=0.04)


def test_a_copy_among_84_dimensions() -> None:
    """One of 24 is one of 84, both rotated: the plain distance correlation squared is .02."""
    x, y = draws(1000, 24, 84)
    y[:, 0] = x[:, 0]
    blocks = [rotated(x, 1), rotated(y, 2)]
    assert u_distance_correlation_sqr(blocks[0][500:], blocks[1][500:]).item() < 0.04
    assert judged(blocks, 500).largest > 0.7


def test_directions_are_those_of_the_dependence() -> None:
    x, y = draws(2000, 5, 3)
    truth = torch.tensor([0.6, 0.0, -0.8, 0.0, 0.0], dtype=torch.float64)
    y[:, 1] = (x @ truth).abs() + 0.1 * y[:, 1]
    scales = torch.tensor([1.0, 100.0, 0.01, 1.0, 10.0], dtype=torch.float64)
    ((left, right),) = most_dependent_directions([x * scales, y], range(2000))
    in_units = left * scales
    assert abs(in_units @ truth / in_units.norm()) > 0.99
    assert abs(right[1] / right.norm()) > 0.99


def test_each_pair_has_its_own_directions() -> None:
    x, y, z = draws(1500, 3, 3, 3)
    y[:, 0] = x[:, 0].square()
    z[:, 2] = x[:, 1] + 0.3 * z[:, 2]
    found = judged([x, y, z], 800)
    assert found.values[0] > 0.25
    assert found.values[1] > 0.6
    assert abs(found.values[2]) < 0.02
    assert found.p_values[2] > 0.05


@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_units_do_not_matter(unit: float) -> None:
    """Neither one of the block nor one of each dimension."""
    blocks = with_square(400, 3)
    expected = judged(blocks, 200).largest
    units = unit * torch.tensor([1.0, 30.0, 0.02, 5.0], dtype=torch.float64)
    for scaled in (unit * blocks[0] + unit, units * blocks[0]):
        assert judged([scaled, blocks[1]], 200).largest == pytest.approx(expected, abs=1e-4)


def test_linear_maps_hardly_matter() -> None:
    blocks = with_square(1000, 4)
    mixed = [block @ draws(5, 5, seed=seed)[0] for seed, block in enumerate(blocks)]
    assert judged(mixed, 500).largest == pytest.approx(judged(blocks, 500).largest, abs=0.03)


def test_dead_dimensions_change_nothing() -> None:
    """Constant ones, and ones that hardly vary."""
    blocks = with_square(1000, 2)
    dead = torch.cat([torch.full((1000, 3), 0.1, dtype=torch.float64), 1e-5 * draws(1000, 5, seed=3)[0]], dim=1)
    found = judged([torch.cat([dead, blocks[0]], dim=1), blocks[1]], 500)
    assert found.largest == pytest.approx(judged(blocks, 500).largest, abs=0.02)


def test_independent_blocks_are_judged_without_bias() -> None:
    """At most 5 % below 5 % for the largest of three pairs, and values around 0, with few patients and visits."""
    patients = [patient for patient in range(40) for _ in range(2)]
    values, p_values = [], []
    for seed in range(60):
        blocks = [
            block.repeat_interleave(2, dim=0) + 0.1 * draws(160, 4, seed=seed + 999)[0]
            for block in draws(80, 4, 4, 4, seed=seed)
        ]
        directions = most_dependent_directions([block[:80] for block in blocks], patients, seed=seed)
        rest = [block[80:] for block in blocks]
        found = sliced_dcor_test(rest, directions, patients, num_permutations=120, seed=seed)
        p_values.append(found.p_largest)
        once = [block[::2] for block in rest]
        values.append(sliced_correlations_sqr(once, directions)[0])
    assert np.mean(np.array(p_values) <= 0.05) <= 0.05 + 3.0 * math.sqrt(0.05 * 0.95 / 60)
    assert abs(np.mean(values)) < 3.0 * np.std(values) / math.sqrt(60)


def test_directions_of_the_judged_rows_would_reject_independence() -> None:
    rejected = 0
    for seed in range(20):
        blocks = draws(60, 12, 12, seed=seed)
        directions = most_dependent_directions(blocks, range(60), seed=seed)
        rejected += sliced_dcor_test(blocks, directions, range(60), num_permutations=120).p_largest <= 0.05
    assert rejected > 10


def test_values_have_a_jackknife_interval() -> None:
    blocks = with_square(1000, 3)
    directions = most_dependent_directions([block[:500] for block in blocks], range(500))
    rest = [block[500:] for block in blocks]
    (expected,) = sliced_correlations_sqr(rest, directions)
    assert sliced_dcor_test(rest, directions, range(500), num_permutations=24).largest == pytest.approx(expected)
    found = jackknife_intervals(
        lambda rows: {"it": sliced_correlations_sqr([block[rows] for block in rest], directions)[0]}, range(500)
    )["it"]
    assert found.value == expected
    assert found.low is not None
    assert found.high is not None
    assert 0.2 < found.low < expected < found.high < 0.4


def test_same_seed_same_directions() -> None:
    blocks = with_square(60, 2)
    first, again = (most_dependent_directions(blocks, range(60), seed=4)[0] for _ in range(2))
    assert torch.equal(first.left, again.left)
    assert torch.equal(first.right, again.right)


def test_visits_stay_in_one_half() -> None:
    """A number that only a patient's own visits share is not taken for a dependence of 30 x 30 directions."""
    x, y = (block.repeat_interleave(6, dim=0) for block in draws(30, 30, 30))
    patients = [patient for patient in range(30) for _ in range(6)]
    ((left, right),) = most_dependent_directions([x, y], patients)
    fresh = draws(500, 30, 30, seed=7)
    assert abs(u_distance_correlation_sqr((fresh[0] @ left)[:, None], (fresh[1] @ right)[:, None]).item()) < 0.03


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        ([torch.ones(30, 2)], "at least 2 blocks, got 1"),
        ([torch.eye(30), torch.ones(30, 2)], "block 1 is constant over 15 rows"),
        ([torch.eye(30), torch.full((30, 1), math.nan)], "block 1 has 30 values that are not finite"),
        ([torch.eye(29), torch.eye(30)], "block 0 has 29 rows for 30 rows"),
    ],
    ids=["one", "constant", "NaN", "rows"],
)
def test_bad_blocks(blocks: list[Tensor], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        most_dependent_directions(blocks, range(30))


def test_19_patients_are_too_few() -> None:
    with pytest.raises(ValueError, match="at least 20 patients; there are 19"):
        most_dependent_directions(draws(38, 2, 2), [row // 2 for row in range(38)])


def test_projection_that_does_not_vary_on_the_judged_rows() -> None:
    blocks = with_square(60, 1)
    directions = most_dependent_directions(blocks, range(60))
    with pytest.raises(ValueError, match="block 0 does not vary"):
        sliced_dcor_test([torch.ones_like(blocks[0]), blocks[1]], directions, range(60))
