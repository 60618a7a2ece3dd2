"""A cohort of phantoms, written as real NIfTI files in the BraTS layout."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np

from menvae.data.files.subjects import MODALITIES, SubjectFiles, subject_files
from menvae.data.geometry.transforms import Geometry
from menvae.data.phantom.distributions import DISTRIBUTIONS_VERSION, FIELD_OF_VIEW_MM
from menvae.data.phantom.head import phantom_subject, write_subject
from menvae.data.volumes import Fraction, Positive, Side, VolumeSource
from menvae.data.workers import ShowProgress, run_tasks
from menvae.errors import UserError
from menvae.registry import Field, register


@dataclass(frozen=True, kw_only=True)
class ProceduralSource(VolumeSource):
    """What sources that draw their heads have in common.

    Attributes:
        seed: of the cohort.
        roi_size: training box.
        spacing_mm: voxel size of the files and of training; None fills the box with the 200 mm field of view.
        modality_missing: probability that a subject is without a modality, for each; one is always there. It depends on
            the seed and the subject alone, and needs ``missing_modalities=allow``.
    """

    checks_files: ClassVar[bool] = False

    seed: Annotated[int, Field(ge=0)] = 0
    roi_size: tuple[Side, Side, Side] = (32, 32, 32)
    spacing_mm: tuple[Positive, Positive, Positive] | None = None
    modality_missing: Fraction = 0.0

    def __post_init__(self) -> None:
        """Refuse what the keys alone show to be wrong."""
        super().__post_init__()
        if self.modality_missing > 0.0 and self.missing_modalities == "fail":
            raise UserError(
                f"data.modality_missing: {self.modality_missing} is not allowed with data.missing_modalities=fail; "
                "choose allow"
            )

    @property
    def geometry(self) -> Geometry:
        """The box at the configured spacing, or at the one that fills it."""
        return Geometry(self.roi_size, None if self.box == "resize" else self._voxel_mm, self.regions, self.box)

    @property
    def _voxel_mm(self) -> tuple[float, float, float]:
        """Voxel size of the files."""
        sides = self.roi_size
        filling = (FIELD_OF_VIEW_MM / sides[0], FIELD_OF_VIEW_MM / sides[1], FIELD_OF_VIEW_MM / sides[2])
        spacing = self.spacing_mm or filling
        if not all(0.5 <= side <= 10.0 for side in spacing):
            raise UserError(
                f"data: a voxel of {list(spacing)} mm (data.spacing_mm, or 200 mm / data.roi_size) is not a head; "
                "phantoms are made with 0.5 to 10 mm a side"
            )
        return spacing

    def _files(self, folder: Path) -> SubjectFiles:
        """Return the files of a subject, of which those of missing modalities are there too, and not used."""
        files = subject_files(folder, self.modalities)
        random = np.random.default_rng([self.seed, *folder.name.encode()])
        draws = dict(zip(MODALITIES, random.random(len(MODALITIES)).tolist(), strict=True))
        stays = max(self.modalities, key=lambda name: draws[name])
        missing = (name for name in self.modalities if draws[name] < self.modality_missing and name != stays)
        return replace(files, missing=tuple(missing))

    def _folder_name(self, version: str) -> str:
        """What files depend on, as the name of their folder."""
        return f"{version}_seed{self.seed}_" + "x".join(f"{side:g}" for side in self._voxel_mm)


@register("data", "phantom", reference="menvae.data.phantom.head, its table of distributions")
@dataclass(frozen=True, kw_only=True)
class PhantomSource(ProceduralSource):
    """Procedural heads with a meningioma; a subject depends on the seed and its index alone.

    Attributes:
        num_subjects: size of the cohort.
    """

    num_subjects: Annotated[int, Field(ge=2)] = 720

    def subjects(self, cache: Path, show: ShowProgress, num_workers: int | None = None) -> list[SubjectFiles]:
        """Make the files that ``<cache>/phantom/<version>/`` does not hold yet; return all subjects."""
        root = self._root(cache)
        root.mkdir(parents=True, exist_ok=True)
        tasks = [(self.seed, index, self._voxel_mm, root) for index in self._missing(root)]
        for _ in show(run_tasks(_make, tasks, num_workers=num_workers), "making phantoms", len(tasks)):
            pass
        return self._all_files(root)

    def found_subjects(self, cache: Path) -> list[SubjectFiles] | None:
        """Return all subjects if all are made."""
        root = self._root(cache)
        return self._all_files(root) if root.is_dir() and not self._missing(root) else None

    def _root(self, cache: Path) -> Path:
        return cache / "phantom" / self._folder_name(DISTRIBUTIONS_VERSION)

    def _missing(self, root: Path) -> list[int]:
        """Return the indices of the subjects whose files are to be made."""
        there = {path.name for path in root.iterdir()}
        return [index for index in range(self.num_subjects) if _subject_id(index) not in there]

    def _all_files(self, root: Path) -> list[SubjectFiles]:
        return [self._files(root / _subject_id(index)) for index in range(self.num_subjects)]


def _subject_id(index: int) -> str:
    return f"phantom-{index:05d}"


def _make(task: tuple[int, int, tuple[float, float, float], Path]) -> str:
    seed, index, spacing_mm, root = task
    return write_subject(phantom_subject(seed, index, spacing_mm), root).name
