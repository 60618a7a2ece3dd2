"""Discovery of subject folders on disk.

A subject is one visit of a patient: one folder of files. A patient may have several visits.
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
"""Suffixes of volume files."""


@dataclass(frozen=True)
class SubjectFiles:
    """The files of one subject.

    Attributes:
        subject_id: name of the subject's folder.
        images: {modality: file or folder}, in channel order; the checks find out whether they exist.
        mask: file or folder of the segmentation.
        doubles: files of the same volume that both exist, compressed and uncompressed.
        patient_id: patient of the visit; defaults to ``subject_id``.
        days: days since the patient's first visit; None if unknown.
        missing: modalities that the subject is allowed to lack; at least one modality remains.
        reader: reader of the files' format.
        targets: targets that the source provides besides those of the mask, None where unknown; every subject has the
            same names.
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
        """Use the subject as its own patient by default."""
        if not self.patient_id:
            object.__setattr__(self, "patient_id", self.subject_id)

    @property
    def files(self) -> dict[str, Path]:
        """Files in use: modalities that are not missing, then ``seg``."""
        return {name: path for name, path in self.images.items() if name not in self.missing} | {"seg": self.mask}

    def without_missing(self) -> SubjectFiles:
        """Return the subject with absent modalities marked as missing; unchanged if all of them are absent."""
        missing = tuple(
            name for name, path in self.images.items() if name in self.missing or not self.reader.exists(path, name)
        )
        return self if len(missing) == len(self.images) else replace(self, missing=missing)


def discover_subjects(
    root: Path, modalities: Sequence[str], patient_pattern: re.Pattern[str] | None = None
) -> list[SubjectFiles]:
    """Return the subjects of a folder in the BraTS layout, sorted by identifier.

    A subject is ``<root>/<id>/`` or, as the visit of a patient, ``<root>/<patient>/<id>/``, with files
    ``<id>-{t1c,t1n,t2f,t2w,seg}.nii.gz`` or ``.nii``. Both layouts may be mixed: a folder with a NIfTI file is a
    subject, any other folder a patient. Hidden folders are ignored. A subject may lack files.

    Args:
        root: the folder.
        modalities: modalities in channel order.
        patient_pattern: matched against the whole name of a folder ``<root>/<id>/``; its first group is the patient. A
            folder that does not match is its own patient.

    Raises:
        UserError: if the folder does not exist, cannot be read or has no subject, or an identifier appears twice.
    """
    if not root.is_dir():
        raise UserError(f"data.root: folder '{root}' does not exist; it must contain <id>/<id>-t1c.nii.gz and so on")
    try:
        found = _subject_folders(root, patient_pattern)
    except OSError as error:
        raise UserError(f"data.root: folder '{error.filename}' cannot be read: {error.strerror}") from None
    if not found:
        raise UserError(f"data.root: '{root}' contains no subject folder; expected <id>/<id>-t1c.nii.gz and so on")
    return [
        replace(subject_files(folder, modalities), patient_id=patient) for _, (folder, patient) in sorted(found.items())
    ]


def _subject_folders(root: Path, patient_pattern: re.Pattern[str] | None) -> dict[str, tuple[Path, str]]:
    """Return identifier -> (folder, patient)."""
    found: dict[str, tuple[Path, str]] = {}
    for folder in _folders(root):
        flat = _holds_volumes(folder)
        for visit in [folder] if flat else filter(_holds_volumes, _folders(folder)):
            patient = _patient_in(folder.name, patient_pattern) if flat else folder.name
            other, _ = found.setdefault(visit.name, (visit, patient))
            if other != visit:
                raise UserError(
                    f"data.root: '{other}' and '{visit}' have the same name, but names of visit folders must be unique "
                    "in the cohort; rename them and their files, for example to <patient>-<visit>"
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
    """Return the files of one subject folder, with the expected path for each missing file."""
    files, doubles = {}, []
    for name in (*modalities, "seg"):
        expected = [folder / f"{folder.name}-{name}{suffix}" for suffix in SUFFIXES]
        there = [path for path in expected if path.is_file()]
        files[name] = (there or expected)[0]
        if len(there) > 1:
            doubles.append(tuple(there))
    return SubjectFiles(folder.name, {name: files[name] for name in modalities}, files["seg"], tuple(doubles))
