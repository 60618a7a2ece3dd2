"""A cohort of real subjects in the BraTS layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from menvae.data.subjects import Geometry, Positive, Side, Source, SubjectFiles, discover_subjects
from menvae.data.workers import ShowProgress
from menvae.registry import register


@register("data", "brats", reference="BraTS-MEN 2023 (LaBella et al. 2023)")
@dataclass(frozen=True, kw_only=True)
class BratsSource(Source):
    """``<root>/<id>/<id>-{t1c,t1n,t2f,t2w,seg}.nii.gz``.

    Attributes:
        root: folder that holds the subject folders.
        roi_size: training box; 144 x 192 x 144 mm holds a whole skull-stripped brain.
        spacing_mm: voxel size along R, A, S that images are resampled to.
    """

    root: str
    roi_size: tuple[Side, Side, Side] = (144, 192, 144)
    spacing_mm: tuple[Positive, Positive, Positive] = (1.0, 1.0, 1.0)

    @property
    def geometry(self) -> Geometry:
        """As configured."""
        return Geometry(self.roi_size, self.spacing_mm, self.regions)

    def subjects(self, cache: Path, show: ShowProgress) -> list[SubjectFiles]:
        """The subjects under ``root``."""
        return discover_subjects(Path(self.root).expanduser(), self.modalities)
