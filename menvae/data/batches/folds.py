"""Folds of a cross-validation: which patients test a run, and how the others are divided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from menvae.errors import FoldError

SPLIT_KEYS = frozenset({"val_fraction", "test_fraction", "split_seed", "fold", "num_folds"})
"""Keys of a source that say which subjects are in which split."""


@dataclass(frozen=True)
class Folds:
    """A partition of all patients into folds, of which one is the test split.

    Attributes:
        index: the fold that is the test split, from 0.
        count: number of folds; None: as many as there are patients.
    """

    index: int
    count: int | None

    def __post_init__(self) -> None:
        """Check that the fold exists, as far as that is known; raises `FoldError`."""
        if self.count is not None and self.index >= self.count:
            raise FoldError(
                f"data.fold: {self.index} is not allowed; data.num_folds={self.count} has the folds 0 to "
                f"{self.count - 1}"
            )

    @classmethod
    def of_keys(cls, fold: int | None, num_folds: int | str) -> Folds | None:
        """Return what ``data.fold`` and ``data.num_folds`` mean; None without a fold."""
        return None if fold is None else cls(fold, num_folds if isinstance(num_folds, int) else None)

    def test(self, volumes: NDArray[np.float64], seed: int, what: str) -> NDArray[np.bool_]:
        """Return which patients are in the fold [P].

        Patients are sorted by volume (ties in random order) and cut into consecutive blocks of as many patients as
        there are folds; each fold gets one patient of each block. The last block may be smaller, so that the sizes of
        folds differ by at most one. With as many folds as patients, fold k is the k-th patient.

        Args:
            volumes: tumour volume of each patient [P], in the order of their identifiers; equal where unknown.
            seed: seed of the partition, which is the same for every fold.
            what: what is divided, for messages: patients, groups or rows.

        Raises:
            FoldError: there are fewer patients than folds, or the fold does not exist.
        """
        num, count = len(volumes), len(volumes) if self.count is None else self.count
        if num < count:
            raise FoldError(f"data.num_folds: {count} folds need at least {count} {what}, but there are {num}")
        if self.index >= count:
            raise FoldError(f"data.fold: {self.index} is not allowed; {num} {what} have the folds 0 to {num - 1}")
        if count == num:
            alone: NDArray[np.bool_] = np.arange(num) == self.index
            return alone
        random = np.random.default_rng([seed, count])
        shuffled = random.permutation(num)
        by_volume = shuffled[np.argsort(volumes[shuffled], kind="stable")]
        num_blocks = -(-num // count)
        folds = random.permuted(np.tile(np.arange(count), (num_blocks, 1)), axis=1).ravel()[:num]
        of_patient = np.empty(num, dtype=np.intp)
        of_patient[by_volume] = folds
        chosen: NDArray[np.bool_] = of_patient == self.index
        return chosen

    def draws(self, seed: int) -> np.random.Generator:
        """Return the random numbers that divide the other patients into training and validation."""
        return np.random.default_rng([seed, self.count or 0, self.index])


def without_unused(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a source that affect its splits, so that runs without a fold keep the hash they had.

    >>> without_unused({"name": "table", "test_fraction": 0.1, "fold": None, "num_folds": 5})
    {'name': 'table', 'test_fraction': 0.1}
    >>> without_unused({"test_fraction": 0.1, "fold": 0, "num_folds": 5})
    {'fold': 0, 'num_folds': 5}
    """
    unused = ("fold", "num_folds") if config.get("fold") is None else ("test_fraction",)
    return {key: value for key, value in config.items() if key not in unused}
