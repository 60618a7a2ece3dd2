"""A cohort of real subjects in the BraTS layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from menvae.data.box import BoxStrategy
from menvae.data.subjects import Geometry, Positive, Side, Source, SubjectFiles, discover_subjects
from menvae.data.workers import ShowProgress
from menvae.errors import UserError
from menvae.registry import register


@register("data", "brats", reference="BraTS-MEN 2023 (LaBella et al. 2023)")
@dataclass(frozen=True, kw_only=True)
class BratsSource(Source):
    """``<root>/<id>/<id>-{t1c,t1n,t2f,t2w,seg}.nii.gz``.

    Attributes:
        root: folder that holds the subject folders.
        roi_size: training box; around its middle, 144 x 192 x 144 mm holds a whole skull-stripped brain.
        spacing_mm: voxel size along R, A, S that images are resampled to; None with ``box=resize``.
        box: on the brain: meningiomas sit at the skull, and a box of this size on the middle of the image cuts some.
    """

    root: str
    roi_size: tuple[Side, Side, Side] = (144, 192, 144)
    spacing_mm: tuple[Positive, Positive, Positive] | None = (1.0, 1.0, 1.0)
    box: BoxStrategy = "brain"

    def __post_init__(self) -> None:
        """Refuse what the keys alone show to be wrong."""
        super().__post_init__()
        if self.box == "resize" and self.spacing_mm is not None:
            raise UserError(
                f"data.spacing_mm: {list(self.spacing_mm)} is not allowed with data.box=resize, which chooses the "
                "spacing of every image; set it to null"
            )
        if self.box != "resize" and self.spacing_mm is None:
            raise UserError(f"data.spacing_mm: null is not allowed with data.box={self.box}; give three sides in mm")

    @property
    def geometry(self) -> Geometry:
        """As configured."""
        return Geometry(self.roi_size, self.spacing_mm, self.regions, self.box)

    def subjects(self, cache: Path, show: ShowProgress) -> list[SubjectFiles]:
        """The subjects under ``root``."""
        return discover_subjects(Path(self.root).expanduser(), self.modalities)
