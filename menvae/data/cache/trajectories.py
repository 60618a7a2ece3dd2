"""Prepared subjects as visits of patients: whose they are, when they were, and how large the tumour was."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from menvae.data.cache.cohort import PreparedSubject

DAYS_PER_YEAR = 365.25


@dataclass(frozen=True)
class Trajectory:
    """The visits of one patient in the order of time.

    Attributes:
        patient_id: whose.
        subject_ids: the visits.
        years: since the patient's first visit.
        tumour_mm3: volume of enhancing tumour and necrotic core at native resolution, without oedema.
    """

    patient_id: str
    subject_ids: tuple[str, ...]
    years: tuple[float, ...]
    tumour_mm3: tuple[float, ...]


def trajectories(subjects: Iterable[PreparedSubject]) -> list[Trajectory]:
    """Group subjects by patient, sorted by identifier; visits whose time is not known are left out.

    Args:
        subjects: in any order.
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
    """Volume behind a target ln(V + 1); 0 where the region has no voxel."""
    value = features[name]
    return 0.0 if value is None else math.expm1(value)
