"""A prepared subject, and the cohort of all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from menvae.data.cache.storage import StoredSubject, read_subject
from menvae.data.files.findings import Finding
from menvae.data.geometry.box import BoxReport


@dataclass(frozen=True)
class PreparedSubject:
    """One entry of the cache.

    Attributes:
        subject_id: as in the source.
        folder: where the arrays lie.
        key: content hash.
        features: raw targets in the geometry of training, and what the source knows besides; None where not observed.
        native_features: those of the mask at native resolution.
        box: how much of the subject the box of training holds.
        spacing_mm: voxel size of the arrays.
        arrays: how they are stored.
        patient_id: whose visit it is. Like ``days`` it is no part of the entry, so no correction prepares anew.
        days: time of the visit in days since the patient's first; None where it is not known.
        missing_channels: indices of the modalities that the subject does not have; their channels are 0.
    """

    subject_id: str
    folder: Path
    key: str
    features: Mapping[str, float | None]
    native_features: Mapping[str, float | None]
    box: BoxReport
    spacing_mm: tuple[float, float, float]
    arrays: Mapping[str, Any]
    patient_id: str
    days: float | None = None
    missing_channels: tuple[int, ...] = ()

    def load(self) -> StoredSubject:
        """Read the arrays.

        Raises:
            OSError: the entry is no longer there.
        """
        return read_subject(self.folder, self.arrays)


@dataclass(frozen=True)
class Cohort:
    """All prepared subjects of a source, sorted by identifier.

    Attributes:
        subjects: the entries.
        data_hash: hash of all entries' keys, identifiers, patients and days, from which splits and times follow, and of
            what the source knows besides.
        findings: what is to be said about the files and boxes of subjects, those that were left out included.
    """

    subjects: tuple[PreparedSubject, ...]
    data_hash: str
    findings: tuple[Finding, ...] = ()

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along R, A, S; the median where subjects have their own."""
        sides = np.median([subject.spacing_mm for subject in self.subjects], axis=0)
        return float(sides[0]), float(sides[1]), float(sides[2])
