"""The order of subjects in an epoch, which depends only on seed, epoch and rank."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from menvae.data.batches.pairs import paired_batches


class Draw(NamedTuple):
    """Index of a subject and the epoch it is drawn for; epoch 0 is never augmented."""

    number: int
    epoch: int


def order_of_rank(
    num: int, seed: int | None, epoch: int, rank: int, num_ranks: int, bounds: Sequence[int]
) -> NDArray[np.intp]:
    """Return the indices of the subjects that a rank sees in an epoch, in order; every rank gets equally many.

    The batches of all ranks, side by side, are those of one process with a batch as large as all of them, in its order:
    a memory of earlier rows forgets the same ones. If the number of subjects is not divisible by that of ranks, the
    first subjects of the epoch come again at its end.

    Args:
        num: number of subjects.
        seed: seed of the shuffle, together with the epoch; None keeps the original order.
        epoch: epoch number.
        rank: rank of this process.
        num_ranks: number of ranks.
        bounds: where the batches of a rank begin among its subjects, and where the last ends.

    >>> [order_of_rank(7, None, 0, rank, 2, [0, 3, 4]).tolist() for rank in (0, 1)]
    [[0, 1, 2, 6], [3, 4, 5, 0]]
    """
    order = np.arange(num) if seed is None else np.random.default_rng([seed, epoch]).permutation(num)
    if num_ranks == 1:
        return order
    wrapped = np.resize(order, bounds[-1] * num_ranks)
    joined = [wrapped[first * num_ranks : last * num_ranks] for first, last in pairwise(bounds)]
    return np.concatenate([np.split(batch, num_ranks)[rank] for batch in joined])


class EpochBatches(Sampler[list[Draw]]):
    """Batches of this rank for one epoch.

    All ranks get the same number of batches of the same sizes: if the number of subjects is not divisible, the order
    wraps around. Collectives that gather rows over ranks rely on this.
    """

    def __init__(
        self,
        num_subjects: int,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        num_ranks: int = 1,
        patients: Sequence[str] | None = None,
    ) -> None:
        """Choose the batches.

        Args:
            num_subjects: size of the split.
            batch_size: subjects per rank and step.
            shuffle: whether to reshuffle every epoch, from ``seed`` and epoch.
            seed: seed of the order.
            rank: rank of this process.
            num_ranks: number of ranks.
            patients: patient of each subject, to draw their visits in pairs; None draws subjects independently.
        """
        self.num_subjects, self.batch_size, self.shuffle, self.patients = num_subjects, batch_size, shuffle, patients
        self.seed, self.rank, self.num_ranks = seed, rank, num_ranks
        self.epoch, self.first_step = 0, 0

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches per epoch and rank."""
        per_rank = -(-self.num_subjects // self.num_ranks)
        return -(-per_rank // self.batch_size)

    def start(self, epoch: int, first_step: int = 0) -> None:
        """Set the epoch and the first step of the next iteration."""
        self.epoch, self.first_step = epoch, first_step

    def __len__(self) -> int:
        return self.steps_per_epoch - self.first_step

    def __iter__(self) -> Iterator[list[Draw]]:
        for numbers in self._batches()[self.first_step :]:
            yield [Draw(number, self.epoch) for number in numbers]

    def _batches(self) -> list[list[int]]:
        """Return all batches of the epoch for this rank."""
        per_rank = -(-self.num_subjects // self.num_ranks)
        bounds = [*range(0, per_rank, self.batch_size), per_rank]
        if self.patients is not None:
            sizes = [last - first for first, last in pairwise(bounds) for _ in range(self.num_ranks)]
            random = np.random.default_rng([self.seed, self.epoch])
            return paired_batches(self.patients, sizes, random)[self.rank :: self.num_ranks]
        seed = self.seed if self.shuffle else None
        mine = order_of_rank(self.num_subjects, seed, self.epoch, self.rank, self.num_ranks, bounds).tolist()
        return [mine[first:last] for first, last in pairwise(bounds)]
