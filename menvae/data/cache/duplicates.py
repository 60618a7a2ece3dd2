"""Subjects of a cohort whose images have the same content, such as cases that two collections share.

Images are compared by mean, standard deviation, minimum and maximum in double precision, which every cache entry holds.
Unlike digests of files, they are equal also for a copy with another compression, header or orientation, and they cost
nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from menvae.data.cache.cohort import PreparedSubject

_log = logging.getLogger(__name__)

_MOST_NAMED = 3


def as_one_patient(subjects: Sequence[PreparedSubject]) -> list[PreparedSubject]:
    """Return the subjects, where those with an image of the same content have one patient, and warn about them.

    All subjects of the patients are joined, under the identifier that comes first, so that no split separates them.

    Args:
        subjects: all subjects of a cohort.
    """
    holders: dict[tuple[float, ...], list[str]] = {}
    for subject in subjects:
        for image in _images(subject):
            holders.setdefault(image, []).append(subject.subject_id)
    shared = [names for names in holders.values() if len(names) > 1]
    if not shared:
        return list(subjects)
    same: dict[str, set[str]] = {}
    for names in shared:
        for name in names:
            same.setdefault(name, set()).update(names)
    _warn(same)
    patients = {subject.subject_id: subject.patient_id for subject in subjects}
    joined = _joined([{patients[name] for name in names} for names in shared])
    return [
        replace(
            subject,
            patient_id=joined.get(subject.patient_id, subject.patient_id),
            same_images=tuple(sorted(same.get(subject.subject_id, set()) - {subject.subject_id})),
        )
        for subject in subjects
    ]


def _images(subject: PreparedSubject) -> set[tuple[float, ...]]:
    """Return mean, standard deviation, minimum and maximum of each image, without missing and constant ones."""
    numbers = zip(*(subject.arrays.get(name, ()) for name in ("mean", "sd", "low", "high")), strict=False)
    return {(mean, sd, low, high) for mean, sd, low, high in numbers if low != high}


def _joined(groups: Iterable[set[str]]) -> dict[str, str]:
    """Return patient -> the first of all patients it is connected to by the groups."""
    before: dict[str, str] = {}

    def first_of(patient: str) -> str:
        while before.get(patient, patient) != patient:
            patient = before[patient]
        return patient

    for group in groups:
        firsts = {first_of(patient) for patient in group}
        before |= dict.fromkeys(firsts, min(firsts))
    return {patient: first_of(patient) for patient in before}


def _warn(same: Mapping[str, set[str]]) -> None:
    groups = sorted({tuple(sorted(names)) for names in same.values()})
    named = "; ".join(" and ".join(f"'{name}'" for name in names) for names in groups[:_MOST_NAMED])
    rest = len(groups) - _MOST_NAMED
    more = f"; and {rest} more group{'s' if rest > 1 else ''}" if rest > 0 else ""
    _log.warning(
        "data: %d subjects have the same images as another: %s%s; they count as one patient and stay in one split; "
        "remove all but one of each",
        *(len(same), named, more),
    )
