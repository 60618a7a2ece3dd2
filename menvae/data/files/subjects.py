"""What a cohort is made of: subject folders on disk, and the geometry they are brought to.

A subject is one visit of a patient: one folder of files, one row. A patient may have several.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from menvae.data.files.readers import NIFTI, Reader
from menvae.errors import UserError

Region = Literal["ncr", "ed", "et"]
REGION_CODES: Mapping[str, int] = {"ncr": 1, "ed": 2, "et": 3}
"""Codes of prepared masks; 0 is background."""

Modality = Literal["t1c", "t1n", "t2f", "t2w"]
MODALITIES: tuple[Modality, ...] = ("t1c", "t1n", "t2f", "t2w")
"""Channel order (T1 contrast-enhanced, T1 native, T2 FLAIR, T2 weighted)."""

SUFFIXES = (".nii.gz", ".nii")
"""Endings of files with volumes."""


@dataclass(frozen=True)
class SubjectFiles:
    """The files of one subject.

    Attributes:
        subject_id: name of its folder.
        images: {modality: its file or folder}, in channel order; whether they exist is found by the checks.
        mask: file or folder of the segmentation.
        doubles: files of which only one should be there: those of one modality, packed and not.
        patient_id: whose visit it is; by default the subject is a patient of its own.
        days: time of the visit in days since the patient's first; None where it is not known.
        missing: modalities that the subject does not have and need not have; one at least is left.
        reader: of their format.
        targets: what the source knows of the subject besides its mask, None where that is not known; of every subject
            the same names.
    """

    subject_id: str
    images: Mapping[str, Path]
    mask: Path
    doubles: tuple[tuple[Path, ...], ...] = ()
    patient_id: str = ""
    days: float | None = None
    missing: tuple[str, ...] = ()
    reader: Reader = NIFTI
    targets: Mapping[str, float | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make a subject of which nothing else is said a patient of its own."""
        if not self.patient_id:
            object.__setattr__(self, "patient_id", self.subject_id)

    @property
    def files(self) -> dict[str, Path]:
        """All that are used: modalities that are not missing, then ``seg``."""
        return {name: path for name, path in self.images.items() if name not in self.missing} | {"seg": self.mask}

    def without_missing(self) -> SubjectFiles:
        """Return the subject with the modalities whose files do not exist as missing; without any, unchanged."""
        missing = tuple(
            name for name, path in self.images.items() if name in self.missing or not self.reader.exists(path, name)
        )
        return self if len(missing) == len(self.images) else replace(self, missing=missing)


def discover_subjects(
    root: Path, modalities: Sequence[str], patient_pattern: re.Pattern[str] | None = None
) -> list[SubjectFiles]:
    """Return the subjects of a folder in the BraTS layout, sorted by identifier.

    A subject is ``<root>/<id>/`` or, as the visit of a patient, ``<root>/<patient>/<id>/``, with files
    ``<id>-{t1c,t1n,t2f,t2w,seg}.nii.gz``, or ``.nii``; both may stand side by side. A folder that holds a NIfTI file is
    a subject, one that does not is a patient. Hidden folders are not looked at. A subject may lack files.

    Args:
        root: the folder.
        modalities: whose files are wanted.
        patient_pattern: its first group is the patient in the whole name of a folder ``<root>/<id>/``; a name that it
            does not match is a patient of its own.

    Raises:
        UserError: no such folder, one that may not be read, no subject in it, or one identifier twice.
    """
    if not root.is_dir():
        raise UserError(f"data.root: folder '{root}' does not exist; it must hold <id>/<id>-t1c.nii.gz and so on")
    try:
        found = _subject_folders(root, patient_pattern)
    except OSError as error:
        raise UserError(f"data.root: folder '{error.filename}' cannot be read: {error.strerror}") from None
    if not found:
        raise UserError(f"data.root: '{root}' holds no subject folder; expected <id>/<id>-t1c.nii.gz and so on")
    return [
        replace(subject_files(folder, modalities), patient_id=patient) for _, (folder, patient) in sorted(found.items())
    ]


def _subject_folders(root: Path, patient_pattern: re.Pattern[str] | None) -> dict[str, tuple[Path, str]]:
    """Return identifier -> the folder of the subject, and its patient."""
    found: dict[str, tuple[Path, str]] = {}
    for folder in _folders(root):
        flat = _holds_volumes(folder)
        for visit in [folder] if flat else filter(_holds_volumes, _folders(folder)):
            patient = _patient_in(folder.name, patient_pattern) if flat else folder.name
            other, _ = found.setdefault(visit.name, (visit, patient))
            if other != visit:
                raise UserError(
                    f"data.root: '{other}' and '{visit}' have one name, and the folder of a visit names it in the "
                    "whole cohort; rename them and their files, such as to <patient>-<visit>"
                )
    return found


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _holds_volumes(folder: Path) -> bool:
    return any(path.name.endswith(SUFFIXES) for path in folder.iterdir())


def _patient_in(name: str, pattern: re.Pattern[str] | None) -> str:
    matched = pattern.fullmatch(name) if pattern is not None else None
    return (matched.group(1) if matched is not None else None) or name


def subject_files(folder: Path, modalities: Sequence[str]) -> SubjectFiles:
    """Return the files of one subject folder: those that are there, and for a missing one where it should be."""
    files, doubles = {}, []
    for name in (*modalities, "seg"):
        expected = [folder / f"{folder.name}-{name}{suffix}" for suffix in SUFFIXES]
        there = [path for path in expected if path.is_file()]
        files[name] = (there or expected)[0]
        if len(there) > 1:
            doubles.append(tuple(there))
    return SubjectFiles(folder.name, {name: files[name] for name in modalities}, files["seg"], tuple(doubles))
