"""Replicates: runs of one configuration, which differ in their seed, in their fold, or in other keys that say so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from menvae.comparison.swept_keys import ABSENT, setting
from menvae.comparison.tracked_runs import TrackedRun, listed

FOLD = "data.fold"
NUM_FOLDS = "data.num_folds"
VAL_FRACTION = "data.val_fraction"
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
    """Return how many subjects a fold tests for each that it trains on; 0 for runs that are not folds.

    The training subjects of folds overlap, so that their results are not independent: the variance of a mean over n
    folds is not s^2 / n, but about s^2 (1 / n + this number) (Nadeau & Bengio 2003, Inference for the generalization
    error, Machine Learning 52:239; for repeated cross-validation Bouckaert & Frank 2004).
    """
    return shared_by_folds(_num_folds(runs), setting(runs[0], NUM_FOLDS), validation_share(runs[0].params))


def overlap_notes(configurations: Iterable[Sequence[TrackedRun]]) -> list[str]:
    """Say of which runs `overlap` counts too few: those that do not record how many subjects validation takes."""
    unknown = [
        runs[0].name for runs in configurations if _num_folds(runs) > 1 and validation_share(runs[0].params) is None
    ]
    return [
        f"Intervals and tests over folds may be too narrow: runs without {VAL_FRACTION} ({listed(unknown)}) do not say "
        "how many subjects validate instead of training; none are assumed to."
    ] * bool(unknown)


def validation_share(params: Mapping[str, object]) -> float | None:
    """Return ``data.val_fraction`` of dotted keys; None if a run has none, as with data of some plugins.

    >>> validation_share({"data.val_fraction": "0.1"}), validation_share({})
    (0.1, None)
    """
    try:
        return float(str(params[VAL_FRACTION]))
    except (KeyError, ValueError):
        return None


def shared_by_folds(num: int, configured: str, validation: float | None) -> float:
    """Return `overlap` of some folds.

    Of k folds, one tests and k - 1 train, less the share of all subjects that validates.

    Args:
        num: number of different folds; seeds of a single one are independent of each other.
        configured: ``data.num_folds``; a text for as many as there are patients.
        validation: share of all subjects that validates; None if unknown: as if none did.

    >>> shared_by_folds(2, "5", None), shared_by_folds(21, "patients", None), shared_by_folds(1, "5", 0.1)
    (0.25, 0.05, 0.0)
    >>> round(shared_by_folds(3, "3", 0.1), 4)  # of 300 subjects, 100 test, 30 validate, 170 train
    0.5882
    """
    if num < 2:
        return 0.0
    is_number = configured.isdigit()
    count = max(int(configured) if is_number else 0, num)
    validating = count * (validation or 0.0)  # in folds
    if validation is not None and not is_number:  # whole patients, at least one
        validating = max(1, round(validating))
    training = count - 1 - validating
    return 1.0 / (training if training > 0 else count - 1)


def _num_folds(runs: Sequence[TrackedRun]) -> int:
    return len({setting(run, FOLD) for run in runs if is_fold(run)})
