"""A prepared cohort becomes something to learn from: splits, and targets fitted on the training subjects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from menvae.data.cohort import visits
from menvae.data.normalizer import TargetNormalizer, TargetSettings
from menvae.data.prepare import Cohort, PreparedSubject
from menvae.data.splits import split_subjects
from menvae.data.subjects import Source, Split


def split_cohort(cohort: Cohort, source: Source) -> dict[str, Split]:
    """Return subject -> split, as the keys ``data.*`` of ``source`` want it.

    Raises:
        UserError: too few patients for a training and a validation set.
    """
    return split_subjects(visits(cohort.subjects), source.val_fraction, source.test_fraction, source.split_seed)


SPLIT_COLUMNS = ("subject_id", "split", "patient_id")


def split_rows(cohort: Cohort, splits: Mapping[str, Split]) -> list[tuple[str, str, str]]:
    """Return the rows of ``splits.csv``, one a subject, with the columns `SPLIT_COLUMNS`."""
    return [(subject.subject_id, splits[subject.subject_id], subject.patient_id) for subject in cohort.subjects]


def subjects_of(cohort: Cohort, splits: Mapping[str, Split], split: Split) -> list[PreparedSubject]:
    """Return the subjects of one split, in the order of the cohort."""
    return [subject for subject in cohort.subjects if splits[subject.subject_id] == split]


def fit_targets(
    training: Sequence[PreparedSubject], settings: TargetSettings, supervision: Mapping[str, Sequence[str]]
) -> TargetNormalizer:
    """Fit the targets of all partitions, and the volumes that they are residualised by, on training subjects.

    Args:
        training: the training subjects.
        settings: keys of ``targets.*``.
        supervision: partition -> names of its targets.

    Raises:
        UserError: a feature that does not exist.
    """
    features = [name for names in supervision.values() for name in names]
    regressors = [name for names in settings.residualise.values() for name in names]
    wanted = list(dict.fromkeys([*features, *regressors]))
    return TargetNormalizer.fit([subject.features for subject in training], settings, wanted)
