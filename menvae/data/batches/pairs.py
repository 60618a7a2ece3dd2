"""Batches that contain pairs of visits of one patient."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice

import numpy as np

from menvae.errors import UserError

_FEWEST_IN_STEP = 3


def check_pairs(patients: Sequence[str], batch_size: int, num_ranks: int) -> None:
    """Refuse ``data.pairs=true`` if no pair exists or no other patient fits into a step.

    Args:
        patients: patient of each training visit.
        batch_size: subjects per rank and step.
        num_ranks: number of ranks.

    Raises:
        UserError: if no patient has two visits, a batch cannot hold a pair, or a step holds fewer than 3 visits.
    """
    num_patients = len(set(patients))
    if num_patients == len(patients):
        raise UserError(
            f"data.pairs: true is not allowed because none of {num_patients} training patients has two visits; assign "
            "patients by folders <root>/<patient>/<visit>, data.patient_pattern or column patient_id of data.dates"
        )
    if batch_size < 2 or batch_size * num_ranks < _FEWEST_IN_STEP:
        raise UserError(
            f"trainer.batch_size: {batch_size} is not allowed with data.pairs=true and {num_ranks} "
            f"{'process' if num_ranks == 1 else 'processes'}; a batch must hold a pair, and a step at least "
            f"{_FEWEST_IN_STEP} visits, to compare a pair with another patient"
        )


def paired_batches(patients: Sequence[str], sizes: Sequence[int], random: np.random.Generator) -> list[list[int]]:
    """Distribute visits over batches such that visits of a patient stay in random pairs.

    An odd number of visits leaves one of the patient's visits single. Each batch of odd size takes a single visit; if
    there are too few, pairs are split, which never happens if all sizes are even.

    Args:
        patients: patient of each visit; visits are identified by their position.
        sizes: batch sizes; their sum is at least the number of visits.
        random: generator; the same state gives the same batches.

    Returns:
        Positions of visits for each batch. Every visit appears; visits repeat to fill remaining places.

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
    """Return random pairs of visits of one patient, and the remaining single visits."""
    visits: dict[str, list[int]] = {}
    for number in random.permutation(len(patients)).tolist():
        visits.setdefault(patients[number], []).append(number)
    found = [numbers[first : first + 2] for numbers in visits.values() for first in range(0, len(numbers), 2)]
    return [pair for pair in found if len(pair) == 2], [numbers[0] for numbers in found if len(numbers) == 1]
