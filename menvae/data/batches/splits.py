"""Training, validation and test splits by patient, stratified by tumour volume."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from menvae.data.batches.folds import Folds
from menvae.errors import UserError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VisitRecord:
    """One visit, as input to a split.

    Attributes:
        subject_id: identifier of the visit.
        patient_id: identifier of the patient.
        volume_mm3: tumour volume, all labels.
        days: days since the patient's first visit; None if unknown.
    """

    subject_id: str
    patient_id: str
    volume_mm3: float
    days: float | None = None


def split_subjects(
    records: Iterable[VisitRecord],
    val_fraction: float,
    test_fraction: float,
    seed: int,
    folds: Folds | None = None,
) -> dict[str, Split]:
    """Assign every patient, with all visits, to train, val or test, with similar tumour volumes in each split.

    Patients are sorted by the volume of their first visit (ties in random order) and cut into as many consecutive
    strata as validation needs patients; one patient is drawn from each stratum. Test patients are drawn from the rest
    in the same way, and the remaining patients train. Counts are therefore exact, and the patients of a split are
    spread evenly over the volumes. The result depends only on the records, not on their order, and on the seed.

    Args:
        records: one per visit. The first visit of a patient is the one with the fewest days, or the first by
            identifier if days are unknown.
        val_fraction: share of the patients for validation; at least one patient.
        test_fraction: share of the patients for test; may round to none.
        seed: seed of the draws.
        folds: the fold that is the test split instead of ``test_fraction``, or None.

    Returns:
        {subject_id: split}, sorted by identifier.

    Raises:
        UserError: if there are too few patients for a training and a validation set, or for the folds.

    >>> visits = [VisitRecord("a-0", "a", 10.0), VisitRecord("a-1", "a", 30.0), VisitRecord("b-0", "b", 20.0)]
    >>> split_subjects(visits, 0.1, 0.1, seed=0)
    {'a-0': 'train', 'a-1': 'train', 'b-0': 'val'}
    """
    ordered = sorted(records, key=lambda record: record.subject_id)
    volumes = _volumes_of_first_visits(ordered)
    patients = sorted(volumes)
    what = "subject" if len(volumes) == len(ordered) else "patient"
    test: set[str] = set()
    if folds is not None:
        in_fold = folds.test(np.array([volumes[patient] for patient in patients]), seed, f"{what}s")
        test = {patient for patient, is_in in zip(patients, in_fold, strict=True) if is_in}
    num_val = max(1, round(val_fraction * len(volumes)))
    num_test = round(test_fraction * len(volumes)) if folds is None else len(test)
    if num_val + num_test >= len(volumes):
        lower = "data.val_fraction" if folds is not None else "data.val_fraction and data.test_fraction"
        raise UserError(
            f"data: {len(volumes)} {what}{'s are' if len(volumes) > 1 else ' is'} too few for {num_val} in validation, "
            f"{num_test} in test and one in training; add subjects or lower {lower}"
        )
    random = np.random.default_rng(seed) if folds is None else folds.draws(seed)
    shuffled = [patients[position] for position in random.permutation(len(patients))]
    by_volume = sorted(shuffled, key=lambda patient: volumes[patient])
    val = _one_of_each_stratum([patient for patient in by_volume if patient not in test], num_val, random)
    if folds is None:
        test = _one_of_each_stratum([patient for patient in by_volume if patient not in val], num_test, random)
    splits: dict[str, Split] = dict.fromkeys(patients, "train")
    splits.update(dict.fromkeys(val, "val"))
    splits.update(dict.fromkeys(test, "test"))
    return {record.subject_id: splits[record.patient_id] for record in ordered}


def _volumes_of_first_visits(records: Sequence[VisitRecord]) -> dict[str, float]:
    firsts: dict[str, VisitRecord] = {}
    for record in sorted(records, key=lambda record: math.inf if record.days is None else record.days):
        firsts.setdefault(record.patient_id, record)
    return {patient: record.volume_mm3 for patient, record in firsts.items()}


def _one_of_each_stratum(ordered: Sequence[str], num_strata: int, random: np.random.Generator) -> set[str]:
    """Cut a list into consecutive strata whose sizes differ by at most one; draw one item from each."""
    # rounding down cumulative bounds spreads the larger strata over the list
    bounds = [stratum * len(ordered) // num_strata for stratum in range(num_strata)] + [len(ordered)]
    return {ordered[int(random.integers(first, last))] for first, last in pairwise(bounds)}


Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


def warn_of_small_splits(
    splits: Iterable[str], test_fraction: float, what: str = "subject", folds: Folds | None = None
) -> None:
    """Warn about a test split that is wanted but empty, and about splits of one subject.

    Args:
        splits: the split of each subject.
        test_fraction: wanted share of the test split.
        what: what a split consists of: subjects or rows.
        folds: the fold that is the test split, or None; one of a single subject is meant.
    """
    counts = Counter(splits)
    if test_fraction and not counts["test"]:
        _log.warning(
            "data.test_fraction: %g of %d %ss rounds to none, so the test split is empty and has no metrics; add "
            "%ss or raise data.test_fraction, or set it to 0",
            *(test_fraction, counts.total(), what, what),
        )
    for split in SPLITS:
        if counts[split] == 1 and (split != "test" or folds is None):
            _log.warning(
                "data: the %s split has one %s, which alone decides its metrics, and correlations and R2 need two; add "
                "%ss or change data.val_fraction or data.test_fraction",
                *(split, what, what),
            )
