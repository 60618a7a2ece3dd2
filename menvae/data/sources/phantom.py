"""A cohort of phantoms, written as real NIfTI files in the BraTS layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np

from menvae.data.files.subjects import MODALITIES, SubjectFiles, subject_files
from menvae.data.geometry.transforms import Geometry
from menvae.data.phantom.distributions import DISTRIBUTIONS_VERSION, FIELD_OF_VIEW_MM
from menvae.data.phantom.head import Factors, make_subject, phantom_factors
from menvae.data.volumes import Fraction, Positive, Side, VolumeSource
from menvae.data.workers import ShowProgress, run_tasks
from menvae.errors import UserError
from menvae.registry import Field, register


@dataclass(frozen=True, kw_only=True)
class ProceduralSource(VolumeSource):
    """Base class of sources that generate phantoms.

    Attributes:
        seed: seed of the cohort.
        roi_size: (D, H, W) of the training box in voxels.
        spacing_mm: voxel size of the files and of training; None fills the box with the 200 mm field of view.
        modality_missing: probability that a subject lacks a modality, for each modality; at least one remains. The draw
            depends only on seed and subject. Needs ``missing_modalities=allow``.
    """

    checks_files: ClassVar[bool] = False

    seed: Annotated[int, Field(ge=0)] = 0
    roi_size: tuple[Side, Side, Side] = (32, 32, 32)
    spacing_mm: tuple[Positive, Positive, Positive] | None = None
    modality_missing: Fraction = 0.0

    def __post_init__(self) -> None:
        """Validate the keys without reading any data."""
        super().__post_init__()
        if self.modality_missing > 0.0 and self.missing_modalities == "fail":
            raise UserError(
                f"data.modality_missing: {self.modality_missing} is not allowed with data.missing_modalities=fail; "
                "choose allow"
            )

    @property
    def files(self) -> Sequence[Path]:
        """None: the files in the cache are generated."""
        return ()

    @property
    def factor_groups(self) -> Mapping[str, Sequence[str]]:
        """Volume, place and shape of the tumour, and the head; see `phantom_factors`."""
        return {group: tuple(factors) for group, factors in phantom_factors(self.seed, 0).items()}

    @property
    def geometry(self) -> Geometry:
        """The box at the configured spacing, or at the spacing that fills it."""
        return Geometry(self.roi_size, None if self.box == "resize" else self._voxel_mm, self.regions, self.box)

    @property
    def _voxel_mm(self) -> tuple[float, float, float]:
        """Voxel size of the files."""
        sides = self.roi_size
        filling = (FIELD_OF_VIEW_MM / sides[0], FIELD_OF_VIEW_MM / sides[1], FIELD_OF_VIEW_MM / sides[2])
        spacing = self.spacing_mm or filling
        if not all(0.5 <= side <= 10.0 for side in spacing):
            raise UserError(
                f"data: voxel size {list(spacing)} mm (data.spacing_mm, or 200 mm / data.roi_size) is out of range; "
                "phantoms need 0.5 to 10 mm along each axis"
            )
        return spacing

    def _files(self, folder: Path) -> SubjectFiles:
        """Return the files of a subject; files of missing modalities exist but are not used."""
        files = subject_files(folder, self.modalities)
        random = np.random.default_rng([self.seed, *folder.name.encode()])
        draws = dict(zip(MODALITIES, random.random(len(MODALITIES)).tolist(), strict=True))
        stays = max(self.modalities, key=lambda name: draws[name])
        missing = (name for name in self.modalities if draws[name] < self.modality_missing and name != stays)
        return replace(files, missing=tuple(missing))

    def _folder_name(self, version: str) -> str:
        """Folder name that encodes everything the files depend on."""
        return f"{version}_seed{self.seed}_" + "x".join(f"{side:g}" for side in self._voxel_mm)


@register("data", "phantom", reference="menvae.data.phantom.head, its table of distributions")
@dataclass(frozen=True, kw_only=True)
class PhantomSource(ProceduralSource):
    """Procedural heads with a meningioma; a subject depends only on the seed and its index.

    Attributes:
        num_subjects: number of subjects.
        val_fraction: share of the subjects for validation.
        test_fraction: share of the subjects for test.
    """

    num_subjects: Annotated[int, Field(ge=2)] = 960
    val_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    test_fraction: Fraction = 0.2

    def subjects(self, cache: Path, show: ShowProgress, num_workers: int | None = None) -> list[SubjectFiles]:
        """Generate missing files in ``<cache>/phantom/<version>.../``; return all subjects."""
        root = self._root(cache)
        root.mkdir(parents=True, exist_ok=True)
        tasks = [(self.seed, index, self._voxel_mm, root) for index in self._missing(root)]
        for _ in show(run_tasks(make_subject, tasks, num_workers=num_workers), "making phantoms", len(tasks)):
            pass
        return self._all_files(root)

    def found_subjects(self, cache: Path) -> list[SubjectFiles] | None:
        """Return all subjects, or None unless the files of all of them exist."""
        root = self._root(cache)
        return self._all_files(root) if root.is_dir() and not self._missing(root) else None

    def factors(self, subject_ids: Sequence[str]) -> dict[str, dict[str, float]]:
        """Return what generated each subject."""
        return {name: without_groups(phantom_factors(self.seed, int(name[-5:]))) for name in subject_ids}

    def _root(self, cache: Path) -> Path:
        return cache / "phantom" / self._folder_name(DISTRIBUTIONS_VERSION)

    def _missing(self, root: Path) -> list[int]:
        """Return the indices of the subjects without files."""
        there = {path.name for path in root.iterdir()}
        return [index for index in range(self.num_subjects) if _subject_id(index) not in there]

    def _all_files(self, root: Path) -> list[SubjectFiles]:
        return [self._files(root / _subject_id(index)) for index in range(self.num_subjects)]


def without_groups(factors: Factors) -> dict[str, float]:
    """Return {factor: value} of all groups, whose names differ."""
    return {name: value for group in factors.values() for name, value in group.items()}


def _subject_id(index: int) -> str:
    return f"phantom-{index:05d}"
