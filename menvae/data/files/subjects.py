"""The files of a subject, and how they are named.

A subject is one visit of a patient: one folder of files. A patient may have several visits.
`menvae.data.files.discovery` finds the folders.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from menvae.data.files.readers import NIFTI, Reader

Region = Literal["ncr", "ed", "et"]
REGION_CODES: Mapping[str, int] = {"ncr": 1, "ed": 2, "et": 3}
"""Codes of prepared masks; 0 is background."""

Modality = Literal["t1c", "t1n", "t2f", "t2w"]
MODALITIES: tuple[Modality, ...] = ("t1c", "t1n", "t2f", "t2w")
"""Channel order (T1 contrast-enhanced, T1 native, T2 FLAIR, T2 weighted)."""

SUFFIXES = (".nii.gz", ".nii")
"""Suffixes of volume files."""

PatientOrigin = Literal["name", "folder", "table", "visit"]
"""What identified the patient of a visit: its name, a folder above it, a table of dates, or nothing."""

FileKind = Literal["t1c", "t1n", "t2f", "t2w", "seg"]
FILE_NAMES: Mapping[FileKind, str] = {"t1c": "-t1c", "t1n": "-t1n", "t2f": "-t2f", "t2w": "-t2w", "seg": "-seg"}
"""File names in the BraTS layout, see `file_names_of`."""

_BIDS_IMAGES = "anat"


@dataclass(frozen=True)
class SubjectFiles:
    """The files of one subject.

    Attributes:
        subject_id: name of the subject's folder, or ``<patient>_<folder>`` where visits of patients have equal names.
        images: {modality: file or folder}, in channel order; the checks find out whether they exist.
        mask: file or folder of the segmentation.
        doubles: files of the same volume that both exist, compressed and uncompressed.
        patient_id: patient of the visit; defaults to ``subject_id``.
        patient_origin: what identified the patient.
        days: days since the patient's first visit; None if unknown.
        missing: modalities that the subject is allowed to lack; at least one modality remains.
        reader: reader of the files' format.
        targets: targets that the source provides besides those of the mask, None where unknown; every subject has the
            same names.
        has_mask: whether the segmentation is used; training needs it, encoding does not.
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
    has_mask: bool = True
    patient_origin: PatientOrigin = "visit"

    def __post_init__(self) -> None:
        """Use the subject as its own patient by default."""
        if not self.patient_id:
            object.__setattr__(self, "patient_id", self.subject_id)

    @property
    def files(self) -> dict[str, Path]:
        """Files in use: modalities that are not missing, then ``seg`` if there is a mask."""
        images = {name: path for name, path in self.images.items() if name not in self.missing}
        return images | {"seg": self.mask} if self.has_mask else images

    def without_missing(self) -> SubjectFiles:
        """Return the subject with absent modalities marked as missing; unchanged if all of them are absent."""
        missing = tuple(
            name for name, path in self.images.items() if name in self.missing or not self.reader.exists(path, name)
        )
        return self if len(missing) == len(self.images) else replace(self, missing=missing)

    def without_absent_mask(self) -> SubjectFiles:
        """Return the subject without its segmentation if that does not exist; otherwise unchanged."""
        return self if self.reader.exists(self.mask, "seg") else replace(self, has_mask=False)


@dataclass(frozen=True)
class Listing:
    """The content of a folder, without hidden files and folders.

    Attributes:
        files: names of the files, relative to the folder. Links that lead nowhere are included: their files exist, but
            were not fetched. So are the files of a BIDS folder ``anat``.
        folders: names of the other folders, sorted.
        dangling: names of the links that lead nowhere.
    """

    files: set[str]
    folders: list[str]
    dangling: list[str]


def list_folder(folder: Path) -> Listing:
    """List a folder; raises OSError if it cannot be read."""
    listing = Listing(set(), [], [])
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if not entry.is_dir():
                listing.files.add(entry.name)
                if entry.is_symlink() and not Path(entry.path).exists():
                    listing.dangling.append(entry.name)
            elif entry.name == _BIDS_IMAGES:
                images = list_folder(folder / _BIDS_IMAGES)
                listing.files.update(f"{_BIDS_IMAGES}/{name}" for name in images.files)
            else:
                listing.folders.append(entry.name)
    listing.folders.sort()
    return listing


def file_names_of(folder: Path, ending: str) -> list[str]:
    """Return the names that one volume of a visit may have, relative to the visit's folder; the first is the usual one.

    Args:
        folder: folder of the visit.
        ending: what follows the name of the visit, such as ``-t1c`` or ``_t1ce``. The name of the visit is that of its
            folder (without ``_nifti``, as UCSF-PDGM ends them), or ``<patient>_<visit>`` for ``<patient>/<visit>/``.
            An ending that begins with neither ``-`` nor ``_`` is the whole name, such as ``CT1``. A ``*`` stands for
            any characters, see `files_named`.

    >>> file_names_of(Path("sub-01/ses-02"), "_T1w")[:2]
    ['ses-02_T1w.nii.gz', 'ses-02_T1w.nii']
    >>> file_names_of(Path("Patient-001/week-000"), "CT1")
    ['CT1.nii.gz', 'CT1.nii', 'anat/CT1.nii.gz', 'anat/CT1.nii']
    """
    names = [""]
    if ending.startswith(("-", "_")):
        visit, patient = folder.name, folder.parent.name
        names = list(dict.fromkeys([visit, visit.removesuffix("_nifti"), f"{patient}_{visit}", f"{patient}-{visit}"]))
    return [
        f"{place}{name}{ending}{suffix}" for place in ("", f"{_BIDS_IMAGES}/") for name in names for suffix in SUFFIXES
    ]


def files_named(found: Collection[str], folder: Path, ending: str) -> list[str]:
    """Return the files of a folder that are named as a volume of the visit, the usual name first.

    Args:
        found: files of the folder, see `list_folder`.
        folder: folder of the visit.
        ending: as in `file_names_of`.

    >>> files_named(["P1_20200101_t1.nii.gz", "P1_20200101_t1ce.nii.gz"], Path("P1"), "_*_t1")
    ['P1_20200101_t1.nii.gz']
    """
    names = file_names_of(folder, ending)
    if "*" not in ending:
        return [name for name in names if name in found]
    pattern = re.compile("|".join(_with_wildcards(name, ending) for name in names))
    return sorted(filter(pattern.fullmatch, found))


def _with_wildcards(name: str, ending: str) -> str:
    """Return a regular expression for a name, in whose ending ``*`` stands for characters within a name."""
    start = name.rindex(ending)
    return re.escape(name[:start]) + re.escape(name[start:]).replace(r"\*", "[^/]*")


def all_endings(file_names: Mapping[FileKind, str]) -> dict[str, str]:
    """Return the ending of every kind of file, with those of the BraTS layout where none is given."""
    return {kind: file_names.get(kind, ending) for kind, ending in FILE_NAMES.items()}


def subject_files(
    folder: Path,
    modalities: Sequence[str],
    file_names: Mapping[FileKind, str] = FILE_NAMES,
    found: Collection[str] | None = None,
) -> SubjectFiles:
    """Return the files of one subject folder, with the expected path for each missing file.

    Args:
        folder: folder of the visit.
        modalities: modalities in channel order.
        file_names: modality or ``seg`` -> ending of the name, see `file_names_of`.
        found: the files of its `list_folder`; None lists the folder, if it exists.
    """
    if found is None:
        found = list_folder(folder).files if folder.is_dir() else ()
    endings = all_endings(file_names)
    files, doubles = {}, []
    for name in (*modalities, "seg"):
        expected = file_names_of(folder, endings[name])
        there = [folder / path for path in files_named(found, folder, endings[name])]
        files[name] = there[0] if there else folder / expected[0]
        if len(there) > 1:
            doubles.append(tuple(there))
    return SubjectFiles(folder.name, {name: files[name] for name in modalities}, files["seg"], tuple(doubles))


def modules_of_readers(subjects: Iterable[SubjectFiles]) -> list[str]:
    """Return the names of the modules that processes import to read the files of subjects."""
    return sorted({type(subject.reader).__module__ for subject in subjects})
