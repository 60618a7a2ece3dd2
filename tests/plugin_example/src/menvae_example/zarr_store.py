"""A source of volumes in a Zarr store, with a target that is not measured on the mask.

The store is a group with one group per subject::

    store.zarr/
      <subject>/            attributes: patient; age_years, null if unknown
        t1c, t2f, ..., seg  arrays of three axes; attribute: affine, 4 x 4, voxel -> mm in RAS

Preparation, checks, cache, box, augmentation and mask targets work as for NIfTI files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

import numpy as np
import zarr

from menvae.data.files.readers import Reader, UnreadableError
from menvae.data.files.stored_volume import StoredVolume
from menvae.data.files.subjects import SubjectFiles
from menvae.data.geometry.transforms import Geometry
from menvae.data.targets.declaration import Target
from menvae.data.volumes import Positive, VolumeSource
from menvae.data.workers import ShowProgress
from menvae.errors import UserError
from menvae.registry import register


@dataclass(frozen=True)
class ZarrReader(Reader):
    """Reads arrays with their affine, an attribute; attributes lie in the array's folder and so enter the cache key."""

    versions: ClassVar[Mapping[str, str]] = MappingProxyType({"zarr": version("zarr")})

    def read(self, path: Path, name: str) -> StoredVolume:
        """Read an array and its affine."""
        try:
            array = zarr.open_array(path, mode="r")
            affine = np.array(array.attrs["affine"], np.float64).reshape(4, 4)
            return StoredVolume(np.asarray(array[...]), affine)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UnreadableError(f"cannot be read as a Zarr array ({' '.join(str(error).split())})") from error


@register("data", "zarr_store", reference="Zarr storage specification, versions 2 and 3")
@dataclass(frozen=True, kw_only=True)
class ZarrSource(VolumeSource):
    """Subjects of a Zarr store; the age of a patient, if known, is a target.

    Attributes:
        store: folder of the store; moving it does not change the identity of runs.
        spacing_mm: voxel size along R, A, S to which images are resampled.
    """

    outside_identity: ClassVar[frozenset[str]] = VolumeSource.outside_identity | {"store"}

    store: str
    spacing_mm: tuple[Positive, Positive, Positive] = (1.0, 1.0, 1.0)

    @property
    def location(self) -> str:
        """The store."""
        return self.store

    @property
    def input_identity(self) -> frozenset[str]:
        """The voxel size too, as stores differ in it: filters learned at one do not fit another."""
        return super().input_identity | {"data.spacing_mm"}

    @property
    def targets(self) -> Mapping[str, Target]:
        """The targets measured on the mask, and the age."""
        return {**super().targets, "age": Target("years", "patient")}

    @property
    def geometry(self) -> Geometry:
        """The configured geometry."""
        return Geometry(self.roi_size, self.spacing_mm, self.regions, self.box)

    def subjects(self, cache: Path, show: ShowProgress, num_workers: int | None = None) -> list[SubjectFiles]:
        """The groups of the store, sorted by name."""
        root = Path(self.store).expanduser()
        try:
            groups = sorted(zarr.open_group(root, mode="r").groups())
        except (OSError, ValueError) as error:
            raise UserError(f"data.store: '{root}' is not a Zarr group") from error
        if not groups:
            raise UserError(f"data.store: '{root}' contains no subject; expected <store>/<subject>/t1c and so on")
        return [self._subject(root / name, dict(group.attrs)) for name, group in groups]

    def _subject(self, folder: Path, attributes: Mapping[str, object]) -> SubjectFiles:
        age = attributes.get("age_years")
        if age is not None and not isinstance(age, int | float):
            raise UserError(f"data.store: age_years of subject '{folder.name}' is {age!r}; it should be a number")
        return SubjectFiles(
            folder.name,
            {name: folder / name for name in self.modalities},
            folder / "seg",
            patient_id=str(attributes.get("patient", "")),
            reader=ZarrReader(),
            targets={"age": None if age is None else float(age)},
        )
