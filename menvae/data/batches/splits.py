"""Training, validation and test: whole patients, alike in tumour volume."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from menvae.errors import UserError


@dataclass(frozen=True)
class VisitRecord:
    """What a split depends on.

    Attributes:
        subject_id: the visit.
        patient_id: whose.
        volume_mm3: of the tumour, all labels.
        days: since the patient's first visit; None where it is not known.
    """

    subject_id: str
    patient_id: str
    volume_mm3: float
    days: float | None = None


def split_subjects(
    records: Iterable[VisitRecord], val_fraction: float, test_fraction: float, seed: int
) -> dict[str, Split]:
    """Assign every patient, with all visits, to train, val or test, such that volumes are spread alike in all of them.

    Patients are sorted by the volume of their first visit (equal ones in an order drawn from the seed) and cut into as
    many consecutive strata as validation has patients; one patient of each stratum is drawn. Test patients are drawn
    from the rest in the same way, and what is left trains. So counts are exact, and between any two patients of a split
    lie about as many others as between the next two. The result depends on the records and the seed alone, not on
    their order.

    Args:
        records: one a visit. The first visit of a patient is that with the fewest days; where they are not known, the
            first by identifier.
        val_fraction: share of the patients for validation, which gets one at least.
        test_fraction: share of the patients for test, which may be empty in a tiny cohort.
        seed: of the draws.

    Returns:
        {subject_id: split}, sorted by identifier.

    Raises:
        UserError: too few patients for a training and a validation set.

    >>> visits = [VisitRecord("a-0", "a", 10.0), VisitRecord("a-1", "a", 30.0), VisitRecord("b-0", "b", 20.0)]
    >>> split_subjects(visits, 0.1, 0.1, seed=0)
    {'a-0': 'train', 'a-1': 'train', 'b-0': 'val'}
    """
    ordered = sorted(records, key=lambda record: record.subject_id)
    volumes = _volumes_of_first_visits(ordered)
    num_val = max(1, round(val_fraction * len(volumes)))
    num_test = round(test_fraction * len(volumes))
    if num_val + num_test >= len(volumes):
        what = "subject" if len(volumes) == len(ordered) else "patient"
        raise UserError(
            f"data: {len(volumes)} {what}{'s' if len(volumes) > 1 else ''} cannot give {num_val} for validation, "
            f"{num_test} for test and any for training; add subjects or lower data.val_fraction and data.test_fraction"
        )
    random = np.random.default_rng(seed)
    patients = sorted(volumes)
    shuffled = [patients[position] for position in random.permutation(len(patients))]
    by_volume = sorted(shuffled, key=lambda patient: volumes[patient])
    val = _one_of_each_stratum(by_volume, num_val, random)
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
    """Cut a list into consecutive strata whose sizes differ by one at most; draw one of each."""
    # bounds accumulate the fraction, so that the larger strata are spread over the list
    bounds = [stratum * len(ordered) // num_strata for stratum in range(num_strata)] + [len(ordered)]
    return {ordered[int(random.integers(first, last))] for first, last in pairwise(bounds)}


Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
