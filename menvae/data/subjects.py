"""What a cohort is made of: subject folders on disk, and the geometry they are brought to.

A subject is one visit of a patient: one folder of files, one row. A patient may have several.
"""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from menvae.data.box import BoxStrategy, KeptShares
from menvae.data.gompertz import Gompertz
from menvae.data.source import Data, DataRequest, DataSource
from menvae.data.storage import CacheFormat, Normalisation
from menvae.data.workers import ShowProgress
from menvae.errors import UserError
from menvae.registry import Field

Region = Literal["ncr", "ed", "et"]
REGION_CODES: Mapping[str, int] = {"ncr": 1, "ed": 2, "et": 3}
"""Codes of prepared masks; 0 is background."""

Modality = Literal["t1c", "t1n", "t2f", "t2w"]
MODALITIES: tuple[Modality, ...] = ("t1c", "t1n", "t2f", "t2w")
"""Channel order (T1 contrast-enhanced, T1 native, T2 FLAIR, T2 weighted)."""

SUFFIXES = (".nii.gz", ".nii")
"""Endings of files with volumes."""

Split = Literal["train", "val", "test"]
Positive = Annotated[float, Field(gt=0.0)]
Side = Annotated[int, Field(ge=1)]
Label = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


@dataclass(frozen=True)
class SubjectFiles:
    """The files of one subject.

    Attributes:
        subject_id: name of its folder.
        images: {modality: NIfTI file}, in channel order; whether they exist is found by the checks.
        mask: NIfTI file of the segmentation.
        doubles: files of which only one should be there: those of one modality, packed and not.
        patient_id: whose visit it is; by default the subject is a patient of its own.
        days: time of the visit in days since the patient's first; None where it is not known.
        missing: modalities that the subject does not have and need not have; one at least is left.
    """

    subject_id: str
    images: Mapping[str, Path]
    mask: Path
    doubles: tuple[tuple[Path, ...], ...] = ()
    patient_id: str = ""
    days: float | None = None
    missing: tuple[str, ...] = ()

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
        missing = tuple(name for name, path in self.images.items() if name in self.missing or not path.is_file())
        return self if len(missing) == len(self.images) else replace(self, missing=missing)


@dataclass(frozen=True)
class Geometry:
    """What preparation brings every subject to; part of the cache key.

    Attributes:
        roi_size: (D, H, W) of the box in voxels.
        spacing_mm: voxel size along R, A, S; None where every image fills the box.
        regions: value in the mask file -> region.
        box: where the box is put.
    """

    roi_size: tuple[int, int, int]
    spacing_mm: tuple[float, float, float] | None
    regions: Mapping[int, Region]
    box: BoxStrategy = "center"


@dataclass(frozen=True, kw_only=True)
class Source(DataSource):
    """Where subjects come from that are volumes; the keys that every such ``data=...`` has.

    Attributes:
        roi_size: (D, H, W) of the training box in voxels.
        modalities: channels, in order.
        label_map: region -> its value or values in the mask file (BraTS up to 2021 writes ET as 4).
        val_fraction: share of the patients for validation; at least one patient.
        test_fraction: share of the patients that is never looked at in training.
        split_seed: seed of the random split.
        box: where the box is put: on the middle of the image (center), on that of the brain's bounding box (brain), or
            around the whole image, each at the spacing that makes it fit (resize, with ``spacing_mm=null``).
        refuse_below: least share of the tumour, and of the brain, that the box must hold; a subject with less is
            faulty.
        warn_below: the same for a warning.
        normalisation: of the intensities of each subject and channel, see `menvae.data.storage.Normalisation`.
        cache_format: ``arrays`` loads fastest, ``compressed`` is several times smaller; see `menvae.data.storage`.
        on_error: what a faulty subject does: fail the preparation, after all subjects are looked at, or be left out
            (skip).
        missing_modalities: what a modality is whose file does not exist: a fault (fail), or a note (allow), and the
            subject has the others; one at least, and the mask. A file that is damaged is a fault.
        pairs: whether the visits of a training patient come in pairs, each in one batch of one process, for terms that
            compare visits; batches are then no independent draws.
        checks_files: whether files may be faulty; not a key.
    """

    checks_files: ClassVar[bool] = True

    roi_size: tuple[Side, Side, Side]
    modalities: tuple[Modality, ...] = MODALITIES
    label_map: dict[Region, Label | tuple[Label, ...]] = field(default_factory=lambda: {"ncr": 1, "ed": 2, "et": 3})
    val_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    test_fraction: Fraction = 0.1
    split_seed: int = 42
    box: BoxStrategy = "center"
    refuse_below: KeptShares = field(default_factory=lambda: {"tumour": 0.5, "brain": 0.5})
    warn_below: KeptShares = field(default_factory=lambda: {"tumour": 0.98, "brain": 0.95})
    normalisation: Normalisation = "zscore"
    cache_format: CacheFormat = "arrays"
    on_error: Literal["skip", "fail"] = "fail"
    missing_modalities: Literal["fail", "allow"] = "fail"
    pairs: bool = False

    def __post_init__(self) -> None:
        """Refuse what the keys alone show to be wrong."""
        twice = [name for name in self.modalities if self.modalities.count(name) > 1]
        if twice or not self.modalities:
            raise UserError(f"data.modalities: {f'{twice[0]} stands twice' if twice else 'at least one is needed'}")
        _ = self.regions

    @property
    def regions(self) -> dict[int, Region]:
        """Value in the mask file -> region: ``label_map`` the other way round.

        Raises:
            UserError: a value that two regions claim.
        """
        regions: dict[int, Region] = {}
        for region, labels in self.label_map.items():
            for label in labels if isinstance(labels, tuple) else (labels,):
                if label in regions:
                    raise UserError(f"data.label_map: {label} cannot be both {regions[label]} and {region}")
                regions[label] = region
        return regions

    @property
    def channels(self) -> tuple[str, ...]:
        """The modalities."""
        return self.modalities

    @property
    def size(self) -> tuple[int, int, int]:
        """The box."""
        return self.roi_size

    @property
    def gives(self) -> frozenset[str]:
        """The mask, and whose visit it is."""
        return frozenset({"mask", "patient_id"})

    @property
    def value_range(self) -> tuple[float, float]:
        """Bounds of normalised intensities."""
        return (-1.0, 1.0) if self.normalisation == "minmax" else (-math.inf, math.inf)

    @property
    def identity(self) -> Mapping[str, str]:
        """Modalities, geometry and normalisation."""
        return {
            "data.modalities": ", ".join(self.modalities),
            "data.roi_size": str(list(self.geometry.roi_size)),
            "data.spacing_mm": str(list(self.geometry.spacing_mm or ["fills the box"])),
            "data.box": self.box,
            "data.normalisation": self.normalisation,
        }

    def load(self, request: DataRequest) -> Data:
        """Prepare, split, fit the targets, make loaders."""
        from menvae.data.volumes import load_volumes  # which imports this module

        return load_volumes(self, request)

    @property
    @abstractmethod
    def geometry(self) -> Geometry:
        """The geometry of training."""

    @property
    def curves(self) -> Mapping[str, Gompertz]:
        """Patient -> the curve that its tumour (enhancing and necrotic) is known to follow; usually none."""
        return {}

    @abstractmethod
    def subjects(self, cache: Path, show: ShowProgress, num_workers: int | None = None) -> list[SubjectFiles]:
        """Return all subjects, sorted by identifier; a source that makes its files puts them under ``cache``.

        Raises:
            UserError: no such folder, or no subject in it.
        """


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
