"""The splits of a prepared cohort: which subjects train, validate and test."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from menvae.data.batches.folds import Folds
from menvae.data.batches.splits import Split, VisitRecord, split_subjects
from menvae.data.cache.cohort import Cohort, PreparedSubject
from menvae.data.cache.trajectories import region_volume_mm3


def visits(subjects: Iterable[PreparedSubject]) -> list[VisitRecord]:
    """Return the inputs of a split; volumes cover all labels at native resolution and are 0 without a tumour."""
    return [
        VisitRecord(
            subject.subject_id,
            subject.patient_id,
            region_volume_mm3(subject.native_features, "vol_total"),
            subject.days,
        )
        for subject in subjects
    ]


def split_cohort(
    cohort: Cohort, val_fraction: float, test_fraction: float, seed: int, folds: Folds | None = None
) -> dict[str, Split]:
    """Return subject -> split of a prepared cohort.

    Args:
        cohort: all subjects.
        val_fraction: share of the patients for validation.
        test_fraction: share of the patients for test.
        seed: seed of the split.
        folds: the fold that is the test split instead of ``test_fraction``, or None.

    Raises:
        UserError: if there are too few patients for a training and a validation set, or for the folds.
    """
    return split_subjects(visits(cohort.subjects), val_fraction, test_fraction, seed, folds)


SPLIT_COLUMNS = ("subject_id", "split", "patient_id")


def split_rows(cohort: Cohort, splits: Mapping[str, Split]) -> list[tuple[str, str, str]]:
    """Return the rows of ``splits.csv``, one per subject, with the columns `SPLIT_COLUMNS`."""
    return [(subject.subject_id, splits[subject.subject_id], subject.patient_id) for subject in cohort.subjects]


def subjects_of(cohort: Cohort, splits: Mapping[str, Split], split: Split) -> list[PreparedSubject]:
    """Return the subjects of one split in cohort order."""
    return [subject for subject in cohort.subjects if splits[subject.subject_id] == split]
