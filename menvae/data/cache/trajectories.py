"""Tumour volumes over time: prepared subjects grouped into the visits of each patient."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from menvae.data.cache.cohort import PreparedSubject

DAYS_PER_YEAR = 365.25


@dataclass(frozen=True)
class Trajectory:
    """The visits of one patient in chronological order.

    Attributes:
        patient_id: patient identifier.
        subject_ids: identifiers of the visits.
        years: years since the patient's first visit.
        tumour_mm3: volume of enhancing tumour and necrotic core at native resolution, without oedema.
    """

    patient_id: str
    subject_ids: tuple[str, ...]
    years: tuple[float, ...]
    tumour_mm3: tuple[float, ...]


def trajectories(subjects: Iterable[PreparedSubject]) -> list[Trajectory]:
    """Group subjects by patient, sorted by patient identifier; visits of unknown time are skipped.

    Args:
        subjects: subjects in any order.
    """
    by_patient: dict[str, list[tuple[float, str, float]]] = {}
    for subject in subjects:
        if subject.days is not None:
            tumour_mm3 = region_volume_mm3(subject.native_features, "vol_et") + region_volume_mm3(
                subject.native_features, "vol_ncr"
            )
            visit = (subject.days / DAYS_PER_YEAR, subject.subject_id, tumour_mm3)
            by_patient.setdefault(subject.patient_id, []).append(visit)
    found = []
    for patient_id in sorted(by_patient):
        years, subject_ids, volumes = zip(*sorted(by_patient[patient_id]), strict=True)
        found.append(Trajectory(patient_id, subject_ids, years, volumes))
    return found


def region_volume_mm3(features: Mapping[str, float | None], name: str) -> float:
    """Return the volume V of a target ln(V + 1); 0 if the region has no voxels."""
    value = features[name]
    return 0.0 if value is None else math.expm1(value)
