"""Subjects of a cohort whose images or masks have the same content, such as cases that two collections share.

Otherwise a model that has memorised its training subjects is judged by copies of them, and passes every gate.

Images are compared by mean, standard deviation, minimum and maximum in double precision, which every cache entry holds.
Unlike digests of files, they are equal also for a copy with another compression, header or orientation, and they cost
nothing. Copies that were processed differently are found by `menvae.data.cache.likeness`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from menvae.data.cache.cohort import PreparedSubject
from menvae.data.cache.likeness import pairs_alike

_log = logging.getLogger(__name__)

_MOST_NAMED = 3
_SAME = (
    "data: %d subjects have the same images as another: %s; they count as one patient and stay in one split; "
    "remove all but one of each"
)
_SIMILAR = (
    "data: %d subjects have nearly the same images as another: %s; remove copies, or name their patient in data.dates "
    "if they are its visits: otherwise training and validation may share them"
)
_MOST_ALIKE = 3
"""More subjects that are alike are no copies: another scanner or preparation makes the difference to the cohort."""


def as_one_patient(subjects: Sequence[PreparedSubject]) -> list[PreparedSubject]:
    """Return the subjects, where those with the same images have one patient; warn about these and similar ones.

    All subjects of the patients are joined, under the identifier that comes first, so that no split separates them.
    Nearly the same images are no proof: their subjects keep their patients.

    Args:
        subjects: all subjects of a cohort.
    """
    holders: dict[tuple[float, ...], list[str]] = {}
    for subject in subjects:
        for image in _images(subject):
            holders.setdefault(image, []).append(subject.subject_id)
    same = _linked(names for names in holders.values() if len(names) > 1)
    similar = _few_alike(
        _linked(
            [one.subject_id, other.subject_id]
            for one, other in pairs_alike(subjects)
            if one.patient_id != other.patient_id and other.subject_id not in same.get(one.subject_id, ())
        )
    )
    if same:
        _log.warning(_SAME, len(same), _named(_groups(same)))
    if similar:
        _log.warning(_SIMILAR, len(similar), _named(_groups(similar)))
    patients = {subject.subject_id: subject.patient_id for subject in subjects}
    joined = _joined({patients[name], *(patients[other] for other in others)} for name, others in same.items())
    return [
        replace(
            subject,
            patient_id=joined.get(subject.patient_id, subject.patient_id),
            same_images=tuple(sorted(same.get(subject.subject_id, ()))),
            similar_images=tuple(sorted(similar.get(subject.subject_id, ()))),
        )
        for subject in subjects
    ]


def warn_of_same_masks(subjects: Sequence[PreparedSubject]) -> None:
    """Warn about subjects with the same mask but other images: one of the masks belongs to another subject.

    Masks are compared by all features at native resolution, which agree to the last bit for a copy only.

    Args:
        subjects: result of `as_one_patient`.
    """
    holders: dict[tuple[float | None, ...], list[PreparedSubject]] = {}
    for subject in subjects:
        if subject.native_features["vol_total"] is not None:
            holders.setdefault(tuple(subject.native_features.values()), []).append(subject)
    groups = [
        tuple(one.subject_id for one in group)
        for group in holders.values()
        if any(other.subject_id not in (*first.same_images, *first.similar_images) for first, other in pairwise(group))
    ]
    if groups:
        _log.warning(
            "data: %d subjects have the same mask as another, but other images: %s; correct the mask that was copied",
            *(sum(map(len, groups)), _named(groups)),
        )


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


def _linked(groups: Iterable[Sequence[str]]) -> dict[str, set[str]]:
    """Return subject -> all others that are in a group with it."""
    found: dict[str, set[str]] = {}
    for names in groups:
        for name in names:
            found.setdefault(name, set()).update(other for other in names if other != name)
    return found


def _few_alike(linked: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Return the subjects that are alike in groups of at most `_MOST_ALIKE`."""
    crowded = {name for name, others in linked.items() if len(others) >= _MOST_ALIKE}
    return {name: others for name, others in linked.items() if not crowded & {name, *others}}


def _groups(linked: Mapping[str, set[str]]) -> list[tuple[str, ...]]:
    return sorted({tuple(sorted({name, *others})) for name, others in linked.items()})


def _named(groups: Sequence[Sequence[str]]) -> str:
    """Return the first groups of subjects, and how many more there are."""
    named = "; ".join(" and ".join(f"'{name}'" for name in names) for names in groups[:_MOST_NAMED])
    rest = len(groups) - _MOST_NAMED
    return named + (f"; and {rest} more group{'s' if rest > 1 else ''}" if rest > 0 else "")
