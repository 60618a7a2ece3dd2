"""Prepared subjects and the cohort they form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from menvae.data.cache.storage import StoredSubject, read_subject
from menvae.data.files.findings import Finding
from menvae.data.geometry.box import BoxReport
from menvae.errors import UserError
from menvae.files import DamagedFileError

Renew = Callable[[], Mapping[str, Any]]
"""Prepares a damaged entry anew, and returns the storage format of its arrays; raises `UserError` if it cannot."""


@dataclass(frozen=True)
class PreparedSubject:
    """One entry of the cache.

    Attributes:
        subject_id: identifier, as in the source.
        folder: folder of the arrays.
        key: content hash.
        features: raw targets in training geometry, plus those the source provides; None where not observed.
        native_features: mask features at native resolution.
        box: how much of the subject the training box holds.
        spacing_mm: voxel size of the arrays along R, A, S.
        arrays: storage format of the arrays, for `read_subject`.
        patient_id: patient of this visit. Like ``days``, it is not part of the key: correcting it prepares nothing.
        days: days since the patient's first visit; None if unknown.
        same_images: identifiers of other subjects with an image of the same content; all of them have one patient.
        similar_images: identifiers of other subjects with nearly the same images, which may be copies.
        sketch: result of `menvae.data.cache.likeness.sketch`; empty in entries of earlier versions.
        missing_channels: indices of the modalities that the subject lacks; their channels are 0.
        renew: prepares the entry anew if it is damaged; None if its files are unknown.
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
    same_images: tuple[str, ...] = ()
    similar_images: tuple[str, ...] = ()
    sketch: str = field(default="", repr=False)
    renew: Renew | None = field(default=None, compare=False, repr=False)

    def load(self) -> StoredSubject:
        """Read the arrays; an entry that is damaged or no longer exists is prepared anew.

        Raises:
            UserError: the entry is damaged and cannot be prepared anew.
        """
        try:
            return read_subject(self.folder, self.arrays)
        except (DamagedFileError, FileNotFoundError) as error:
            if self.renew is None:
                raise UserError(f"subject '{self.subject_id}': {error}") from None
        return read_subject(self.folder, self.renew())


@dataclass(frozen=True)
class Cohort:
    """All prepared subjects of a source, sorted by identifier.

    Attributes:
        subjects: cache entries.
        data_hash: hash of keys, identifiers, patients, days and targets from the source of all entries.
        findings: findings about files and boxes, including those of subjects that were left out.
    """

    subjects: tuple[PreparedSubject, ...]
    data_hash: str
    findings: tuple[Finding, ...] = ()

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along R, A, S; the median if it varies by subject."""
        sides = np.median([subject.spacing_mm for subject in self.subjects], axis=0)
        return float(sides[0]), float(sides[1]), float(sides[2])
