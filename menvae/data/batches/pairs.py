"""Batches in which visits of one patient meet."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice

import numpy as np

from menvae.errors import UserError

_FEWEST_IN_STEP = 3


def check_pairs(patients: Sequence[str], batch_size: int, num_ranks: int) -> None:
    """Refuse ``data.pairs=true`` where no pair could be made, or be compared with anybody.

    Args:
        patients: of each training visit.
        batch_size: subjects a rank and step.
        num_ranks: processes that train together.

    Raises:
        UserError: no patient has two visits, or a batch has no room for a pair and another patient.
    """
    num_patients = len(set(patients))
    if num_patients == len(patients):
        raise UserError(
            f"data.pairs: true is not allowed where none of {num_patients} training patients has two visits; name "
            "patients by folders <root>/<patient>/<visit>, data.patient_pattern or the column patient_id of data.dates"
        )
    if batch_size < 2 or batch_size * num_ranks < _FEWEST_IN_STEP:
        raise UserError(
            f"trainer.batch_size: {batch_size} is not allowed with data.pairs=true and {num_ranks} "
            f"{'process' if num_ranks == 1 else 'processes'}; a batch holds a pair, and a step {_FEWEST_IN_STEP} or "
            "more visits, so that there is another patient to compare with"
        )


def paired_batches(patients: Sequence[str], sizes: Sequence[int], random: np.random.Generator) -> list[list[int]]:
    """Deal visits out such that those of a patient come in pairs; which ones, and with whom, is drawn.

    A patient with an odd number of visits has one that comes alone, as those of patients with one visit do. Batches of
    an odd size take one of these, and where there are too few, pairs are torn: none where all sizes are even.

    Args:
        patients: of each visit; visits are called by their position.
        sizes: of the batches, with room for every visit.
        random: where from; the same state gives the same batches.

    Returns:
        Batches of these sizes that hold every visit; where there is more room, some again.

    >>> patients = ["anna", "anna", "bert", "carl", "carl", "carl"]
    >>> [sorted(batch) for batch in paired_batches(patients, [3, 3], np.random.default_rng(0))]
    [[2, 3, 5], [0, 1, 4]]
    """
    assert sum(sizes) >= len(patients), "there is room for every visit"
    pairs, alone = _pairs(patients, random)
    num_odd = sum(size % 2 for size in sizes)
    while pairs and len(alone) < num_odd:
        alone += pairs.pop()
    odd_ones, others = alone[:num_odd], alone[num_odd:]
    twos = pairs + [others[first : first + 2] for first in range(0, len(others), 2)]
    twos = [twos[index] for index in random.permutation(len(twos)).tolist()]
    batches: list[list[int]] = []
    for size in sizes:
        batch = [odd_ones.pop()] if size % 2 and odd_ones else []
        batches.append(batch + [number for _ in range(min(size // 2, len(twos))) for number in twos.pop()])
    again = cycle([number for batch in batches for number in batch])
    return [batch + list(islice(again, size - len(batch))) for batch, size in zip(batches, sizes, strict=True)]


def _pairs(patients: Sequence[str], random: np.random.Generator) -> tuple[list[list[int]], list[int]]:
    """Return pairs of visits of one patient, and the visits that are left, both in a random order."""
    visits: dict[str, list[int]] = {}
    for number in random.permutation(len(patients)).tolist():
        visits.setdefault(patients[number], []).append(number)
    found = [numbers[first : first + 2] for numbers in visits.values() for first in range(0, len(numbers), 2)]
    return [pair for pair in found if len(pair) == 2], [numbers[0] for numbers in found if len(numbers) == 1]
