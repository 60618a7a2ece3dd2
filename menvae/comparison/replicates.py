"""Replicates: runs of one configuration, which differ in their seed, in their fold, or in other keys that say so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from menvae.comparison.swept_keys import ABSENT, setting
from menvae.comparison.tracked_runs import TrackedRun

FOLD = "data.fold"
NUM_FOLDS = "data.num_folds"
_NONE = (ABSENT, "null")


@dataclass(frozen=True)
class Replicates:
    """The keys that tell the runs of one configuration apart.

    Attributes:
        keys: those besides ``seed`` that differ between runs.
        has_seeds: whether runs have different seeds.
        has_folds: whether runs are folds of a cross-validation, and folds are replicates.
    """

    keys: tuple[str, ...] = ()
    has_seeds: bool = True
    has_folds: bool = False

    @classmethod
    def of(cls, keys: Sequence[str], runs: Sequence[TrackedRun]) -> Replicates:
        """Return the replicates among runs.

        Args:
            keys: the keys besides ``seed`` whose values are replicates.
            runs: all runs.
        """
        different = tuple(key for key in dict.fromkeys(keys) if len({setting(run, key) for run in runs}) > 1)
        folds = FOLD in keys and any(is_fold(run) for run in runs)
        return cls(different, len({run.seed for run in runs}) > 1, folds)

    @property
    def words(self) -> str:
        """What means are taken over, such as ``seeds and folds``."""
        words = ["seeds"] * (self.has_seeds or not self.keys)
        return " and ".join([*words, *(f"{label(key)}s" for key in self.keys)])

    @property
    def noun(self) -> str:
        """What one of them is called."""
        return "run" if self.keys else "seed"

    def values(self, run: TrackedRun) -> tuple[str, ...]:
        """Return the values of the keys besides ``seed``: runs with equal ones share their split."""
        return tuple(setting(run, key) for key in self.keys)

    def name(self, run: TrackedRun) -> str:
        """Return what tells a run apart, such as ``seed 1, fold 3``; equal for runs to be compared with each other."""
        pairs = zip(self.keys, self.values(run), strict=True)
        words = [f"{label(key)} {value}" for key, value in pairs if value not in _NONE]
        return ", ".join([f"seed {run.seed or 'unknown'}", *words])

    def repetition(self, run: TrackedRun) -> str:
        """Return `name` without the fold: the runs with the same one test every subject once."""
        return Replicates(tuple(key for key in self.keys if key != FOLD)).name(run)


def label(key: str) -> str:
    """Return the last part of a key.

    >>> label("data.fold")
    'fold'
    """
    return key.rpartition(".")[2]


def is_fold(run: TrackedRun) -> bool:
    """Return whether a run is a fold of a cross-validation."""
    return setting(run, FOLD) not in _NONE


def overlap(runs: Sequence[TrackedRun]) -> float:
    """Return how many subjects a fold tests for each that it trains on, 1 / (k - 1); 0 for runs that are not folds.

    The training subjects of folds overlap, so that their results are not independent: the variance of a mean over n
    folds is not s^2 / n, but about s^2 (1 / n + this number) (Nadeau & Bengio 2003, Inference for the generalization
    error, Machine Learning 52:239; for repeated cross-validation Bouckaert & Frank 2004).
    """
    return shared_by_folds(len({setting(run, FOLD) for run in runs if is_fold(run)}), setting(runs[0], NUM_FOLDS))


def shared_by_folds(num: int, configured: str) -> float:
    """Return `overlap` of some folds.

    Args:
        num: number of different folds; seeds of a single one are independent of each other.
        configured: ``data.num_folds``; a text for as many as there are patients.

    >>> shared_by_folds(2, "5"), shared_by_folds(21, "patients"), shared_by_folds(1, "5")
    (0.25, 0.05, 0.0)
    """
    return 1.0 / (max(int(configured) if configured.isdigit() else 0, num) - 1) if num > 1 else 0.0
