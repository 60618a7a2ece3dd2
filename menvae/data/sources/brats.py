"""A cohort of real subjects in the BraTS layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import ClassVar

from menvae.configuration import path_of
from menvae.data.files.discovery import discover_subjects
from menvae.data.files.patients import PatientRule, log_patients
from menvae.data.files.subjects import FILE_NAMES, SUFFIXES, FileKind, SubjectFiles, all_endings
from menvae.data.files.visits import with_times
from menvae.data.geometry.box import BoxStrategy
from menvae.data.geometry.transforms import Geometry
from menvae.data.volumes import Positive, Side, VolumeSource
from menvae.data.workers import ShowProgress
from menvae.errors import UserError
from menvae.registry import register


@register("data", "brats", reference="BraTS-MEN 2023 (LaBella et al. 2023)")
@dataclass(frozen=True, kw_only=True)
class BratsSource(VolumeSource):
    r"""``<id>/<id>-{t1c,t1n,t2f,t2w,seg}.nii.gz`` anywhere below a root, see `menvae.data.files.discovery`.

    Attributes:
        root: folder of visits; folders between them are patients (sub-01/ses-01) or groups of any depth (HGG, LGG).
        patient_pattern: regular expression matched against the whole name of a visit, or, if it contains a slash,
            against its path below ``root``; its first group is the patient. None uses the names of public cohorts
            (`menvae.data.files.patients.KNOWN_NAMES`): BraTS-MEN-00004-001 is a visit of BraTS-MEN-00004. A visit
            without a match belongs to the patient in whose folder it lies, or is its own patient.
        file_names: what follows the visit's name in the names of its files, without ``.nii.gz``; an ending that begins
            with neither ``-`` nor ``_`` is the whole name. A ``*`` stands for any characters, such as those of a date:
            ``_*_t1``. Kinds that are left out keep their BraTS names.
        dates: CSV file with the columns ``subject_id``, ``date`` (2024-01-31) or ``days``, and optionally
            ``patient_id``, which overrides folders; None if the times of visits are unknown.
        roi_size: training box; 144 x 192 x 144 mm around its centre holds a whole skull-stripped brain.
        spacing_mm: voxel size along R, A, S after resampling; None with ``box=resize``.
        box: ``brain`` by default: meningiomas lie at the skull, and a box centred on the image cuts some of them.
    """

    outside_identity: ClassVar[frozenset[str]] = VolumeSource.outside_identity | {
        "root",
        "patient_pattern",
        "file_names",
        "dates",
    }  # the hash of the data covers patients, times, and the content of files
    added_keys: ClassVar[Mapping[str, object]] = MappingProxyType(
        {**VolumeSource.added_keys, "file_names": dict(FILE_NAMES)}
    )

    root: str
    patient_pattern: str | None = None
    file_names: dict[FileKind, str] = field(default_factory=lambda: dict(FILE_NAMES))
    dates: str | None = None
    roi_size: tuple[Side, Side, Side] = (144, 192, 144)
    spacing_mm: tuple[Positive, Positive, Positive] | None = (1.0, 1.0, 1.0)
    box: BoxStrategy = "brain"

    def __post_init__(self) -> None:
        """Validate the keys without reading any data."""
        super().__post_init__()
        PatientRule(self.patient_pattern)
        _check_endings(all_endings(self.file_names))
        if self.box == "resize" and self.spacing_mm is not None:
            raise UserError(
                f"data.spacing_mm: {list(self.spacing_mm)} is not allowed with data.box=resize, which chooses the "
                "spacing of every image; set it to null"
            )
        if self.box != "resize" and self.spacing_mm is None:
            raise UserError(f"data.spacing_mm: null is not allowed with data.box={self.box}; give three sides in mm")

    @property
    def geometry(self) -> Geometry:
        """The configured box and spacing."""
        return Geometry(self.roi_size, self.spacing_mm, self.regions, self.box)

    @property
    def location(self) -> str:
        """The root folder."""
        return self.root

    @property
    def files(self) -> Sequence[Path]:
        """The root folder, and the file of dates."""
        return [path_of(self.root, "data.root"), *([path_of(self.dates, "data.dates")] if self.dates else [])]

    def subjects(self, cache: Path, show: ShowProgress, num_workers: int | None = None) -> list[SubjectFiles]:
        """The subjects under ``root``, with their patients and times; logs how many patients there are."""
        found = self.found_subjects(cache)
        log_patients(found, PatientRule(self.patient_pattern))
        return found

    def found_subjects(self, cache: Path) -> list[SubjectFiles]:
        """The subjects under ``root``, with their patients and times."""
        rule = PatientRule(self.patient_pattern)
        found = discover_subjects(path_of(self.root, "data.root"), self.modalities, rule, self.file_names)
        return found if self.dates is None else with_times(found, path_of(self.dates, "data.dates"))


def _check_endings(endings: Mapping[str, str]) -> None:
    kinds: dict[str, str] = {}
    for kind, ending in endings.items():
        if not ending.strip("-_* ") or PurePosixPath(ending).name != ending or ending.startswith("."):
            raise UserError(f"data.file_names.{kind}: '{ending}' is not an ending of a file name such as -t1c or _t1ce")
        if ending.endswith(SUFFIXES):
            raise UserError(f"data.file_names.{kind}: '{ending}' must be given without .nii.gz or .nii")
        other = kinds.setdefault(ending, kind)
        if other != kind:
            raise UserError(f"data.file_names: '{ending}' cannot be both {other} and {kind}")
