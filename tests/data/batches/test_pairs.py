"""Batches of pairs: every visit once, pairs whole, ranks alike, and the order one of seed and epoch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from menvae.data.batches.order import EpochBatches
from menvae.data.batches.pairs import check_pairs, paired_batches
from menvae.errors import UserError

COUNTS = st.lists(st.integers(1, 6), min_size=1, max_size=25)
"""Visits of each patient."""


def patients_of(counts: Sequence[int]) -> list[str]:
    """Patients of visits in an order in which those of one are not neighbours."""
    names = [f"p{patient}" for patient, count in enumerate(counts) for _ in range(count)]
    return [names[index] for index in np.random.default_rng(7).permutation(len(names))]


def epochs(counts: Sequence[int], batch_size: int, num_ranks: int, seed: int = 0, **more: object) -> list[EpochBatches]:
    """One sampler a rank."""
    patients = patients_of(counts)
    keys = {"shuffle": True, "seed": seed, "num_ranks": num_ranks, "patients": patients, **more}
    return [EpochBatches(len(patients), batch_size, rank=rank, **keys) for rank in range(num_ranks)]


def numbers(sampler: EpochBatches, epoch: int = 0, first_step: int = 0) -> list[list[int]]:
    sampler.start(epoch, first_step)
    drawn = list(sampler)
    assert all(draw.epoch == epoch for batch in drawn for draw in batch)
    return [[draw.number for draw in batch] for batch in drawn]


def num_pairs(batches: Sequence[Sequence[int]], patients: Sequence[str]) -> int:
    """Pairs that lie in one batch, no visit counted in two of them."""
    return sum(count // 2 for batch in batches for count in Counter(patients[number] for number in set(batch)).values())


@given(COUNTS, st.integers(2, 9), st.integers(1, 4), st.integers(0, 3))
def test_an_epoch_holds_every_visit_and_all_pairs_that_can_be(
    counts: list[int], batch_size: int, num_ranks: int, epoch: int
) -> None:
    samplers, patients = epochs(counts, batch_size, num_ranks), patients_of(counts)
    ranks = [numbers(sampler, epoch) for sampler in samplers]
    plain = EpochBatches(len(patients), batch_size, shuffle=True, num_ranks=num_ranks)
    sizes = [len(batch) for batch in numbers(plain)]
    assert all([len(batch) for batch in rank] == sizes for rank in ranks), "sizes are those of batches without pairs"
    assert len(sizes) == samplers[0].steps_per_epoch == len(samplers[0])
    seen = Counter(number for rank in ranks for batch in rank for number in batch)
    assert set(seen) == set(range(len(patients)))
    assert sum(seen.values()) - len(patients) < num_ranks
    num_odd = num_ranks * sum(size % 2 for size in sizes)
    num_alone = sum(count % 2 for count in counts)
    torn = -(-max(0, num_odd - num_alone) // 2)
    wanted = sum(count // 2 for count in counts)
    assert sum(num_pairs(rank, patients) for rank in ranks) >= wanted - torn


@given(COUNTS, st.integers(2, 6), st.integers(1, 3), st.data())
def test_an_epoch_goes_on_at_any_step(counts: list[int], batch_size: int, num_ranks: int, data: st.DataObject) -> None:
    sampler = epochs(counts, batch_size, num_ranks)[-1]
    whole = numbers(sampler, epoch=2)
    step = data.draw(st.integers(0, len(whole)))
    assert numbers(sampler, 2, step) == whole[step:]
    assert numbers(epochs(counts, batch_size, num_ranks)[-1], 2, step) == whole[step:], "by another process"


def test_partners_and_batches_are_drawn_anew_each_epoch() -> None:
    (sampler,) = epochs([6] * 8, 4, 1)
    first, second = numbers(sampler, 0), numbers(sampler, 1)
    assert first != second
    assert first != numbers(epochs([6] * 8, 4, 1, seed=1)[0], 0)
    patients = patients_of([6] * 8)

    def partners(batches: list[list[int]]) -> set[frozenset[int]]:
        return {frozenset(batch[i : i + 2]) for batch in batches for i in (0, 2)}

    assert all(len({patients[number] for number in pair}) == 1 for pair in partners(first))
    met = set().union(*(partners(numbers(sampler, epoch)) for epoch in range(60)))
    assert len(met) > 0.9 * 8 * 15, "in time a visit meets all others of its patient"


def test_who_meets_whom_in_a_batch_is_uniform() -> None:
    (sampler,) = epochs([2] * 6, 4, 1)
    patients = patients_of([2] * 6)
    met = Counter(
        frozenset(patients[number] for number in batch) for epoch in range(600) for batch in numbers(sampler, epoch)
    )
    assert len(met) == 15  # 6 patients choose 2, each expected 600 * 3 / 15 = 120 times
    assert all(70 < count < 170 for count in met.values())


@pytest.mark.parametrize(("num", "batch_size"), [(8, 2), (14, 3), (6, 5), (2, 1), (7, 2), (13, 4)])
def test_batches_of_all_ranks_are_those_of_one_process(num: int, batch_size: int) -> None:
    ranks = [EpochBatches(num, batch_size, shuffle=True, seed=3, rank=rank, num_ranks=2) for rank in (0, 1)]
    alone = EpochBatches(num, 2 * batch_size, shuffle=True, seed=3)
    joined = [first + second for first, second in zip(*(numbers(rank, 5) for rank in ranks), strict=True)]
    expected = numbers(alone, 5)
    if num % 2:  # the first subject fills the place of the one that is missing
        expected[-1].append(expected[0][0])
    assert joined == expected


def test_more_room_than_visits_repeats_some() -> None:
    batches = paired_batches(["a", "a", "b"], [2, 2, 3], np.random.default_rng(0))
    assert [len(batch) for batch in batches] == [2, 2, 3]
    assert {number for batch in batches for number in batch} == {0, 1, 2}


@pytest.mark.parametrize(
    ("patients", "batch_size", "num_ranks", "words"),
    [
        (["a", "b"], 4, 1, "data.pairs: true is not allowed because none of 2 training patients has two visits"),
        (["a", "a", "b"], 1, 4, "trainer.batch_size: 1 is not allowed with data.pairs=true and 4 processes"),
        (["a", "a", "b"], 2, 1, "trainer.batch_size: 2 is not allowed with data.pairs=true and 1 process;"),
    ],
)
def test_what_cannot_be_paired_is_refused(patients: list[str], batch_size: int, num_ranks: int, words: str) -> None:
    with pytest.raises(UserError) as caught:
        check_pairs(patients, batch_size, num_ranks)
    assert words in str(caught.value)
    check_pairs(["a", "a", "b"], 2, 2)
    check_pairs(["a", "a", "b"], 3, 1)
