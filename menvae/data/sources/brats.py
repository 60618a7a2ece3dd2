"""A cohort of real subjects in the BraTS layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from menvae.configuration import path_of
from menvae.data.files.subjects import SubjectFiles, discover_subjects
from menvae.data.files.visits import compiled_patient_pattern, with_times
from menvae.data.geometry.box import BoxStrategy
from menvae.data.geometry.transforms import Geometry
from menvae.data.volumes import Positive, Side, VolumeSource
from menvae.data.workers import ShowProgress
from menvae.errors import UserError
from menvae.registry import register


@register("data", "brats", reference="BraTS-MEN 2023 (LaBella et al. 2023)")
@dataclass(frozen=True, kw_only=True)
class BratsSource(VolumeSource):
    r"""``<root>/<id>/<id>-{t1c,t1n,t2f,t2w,seg}.nii.gz``, or ``<root>/<patient>/<id>/...``.

    Attributes:
        root: folder of subject folders, or of patient folders with one folder per visit.
        patient_pattern: regular expression matched against the whole name of a folder ``<root>/<id>``; its first group
            is the patient: BraTS-MEN-00004-001 is a visit of BraTS-MEN-00004. A folder without a match is its own
            patient.
        dates: CSV file with the columns ``subject_id``, ``date`` (2024-01-31) or ``days``, and optionally
            ``patient_id``, which overrides folders; None if the times of visits are unknown.
        roi_size: training box; 144 x 192 x 144 mm around its centre holds a whole skull-stripped brain.
        spacing_mm: voxel size along R, A, S after resampling; None with ``box=resize``.
        box: ``brain`` by default: meningiomas lie at the skull, and a box centred on the image cuts some of them.
    """

    outside_identity: ClassVar[frozenset[str]] = VolumeSource.outside_identity | {"root", "patient_pattern", "dates"}

    root: str
    patient_pattern: str = r"(BraTS-[A-Za-z]+-\d+)-\d+"
    dates: str | None = None
    roi_size: tuple[Side, Side, Side] = (144, 192, 144)
    spacing_mm: tuple[Positive, Positive, Positive] | None = (1.0, 1.0, 1.0)
    box: BoxStrategy = "brain"

    def __post_init__(self) -> None:
        """Validate the keys without reading any data."""
        super().__post_init__()
        compiled_patient_pattern(self.patient_pattern)
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

    def subjects(self, cache: Path, show: ShowProgress, num_workers: int | None = None) -> list[SubjectFiles]:
        """The subjects under ``root``, with their patients and times."""
        pattern = compiled_patient_pattern(self.patient_pattern)
        found = discover_subjects(path_of(self.root, "data.root"), self.modalities, pattern)
        return found if self.dates is None else with_times(found, path_of(self.dates, "data.dates"))
