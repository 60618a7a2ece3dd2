"""Base class of volume sources: common keys, and the path from prepared subjects to batches with targets."""

from __future__ import annotations

import itertools
import logging
import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch

from menvae import collectives
from menvae.data.batches.cohort_splits import SPLIT_COLUMNS, split_cohort, split_rows, subjects_of
from menvae.data.batches.dataset import Sample, SplitLoader, SubjectDataset, collate
from menvae.data.batches.folds import SPLIT_KEYS, Folds
from menvae.data.batches.order import EpochBatches
from menvae.data.batches.pairs import check_pairs
from menvae.data.batches.splits import SPLITS, warn_of_small_splits
from menvae.data.cache.cohort import Cohort
from menvae.data.cache.prepare import find_prepared, mark_missing, prepare
from menvae.data.cache.storage import CacheFormat, Normalisation
from menvae.data.cache.streaming import stream_subjects
from menvae.data.files.screening import note_missing
from menvae.data.files.subjects import MODALITIES, REGION_CODES, Modality, Region, SubjectFiles
from menvae.data.geometry.box import BoxStrategy, KeptShares
from menvae.data.geometry.transforms import Geometry
from menvae.data.source import (
    CohortSource,
    Data,
    DataRequest,
    DataSource,
    FittedTargets,
    Stream,
    StreamRequest,
    Visit,
    Volumes,
)
from menvae.data.targets.declaration import MASK_TARGETS, Target, location_axes
from menvae.data.targets.fit import fit_targets
from menvae.data.workers import ShowProgress, unseen
from menvae.errors import UserError
from menvae.registry import Field
from menvae.statistics.gompertz import Gompertz
from menvae.types import Batch, Intensities

_log = logging.getLogger(__name__)

Positive = Annotated[float, Field(gt=0.0)]
Side = Annotated[int, Field(ge=1)]
Label = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


@dataclass(frozen=True, kw_only=True)
class VolumeSource(DataSource):
    """A source of volumes, with the keys common to all of them.

    Attributes:
        roi_size: (D, H, W) of the training box in voxels.
        modalities: channels, in order.
        label_map: region -> its value or values in the mask file (BraTS up to 2021 writes ET as 4). A region that the
            masks do not have is removed: a mask of 0 and 1 for the whole tumour is mapped by
            ``~data.label_map.ncr data.label_map.et=1``.
        val_fraction: share of the patients for validation; at least one patient.
        test_fraction: share of the patients for test, never used in training.
        split_seed: seed of the random split.
        fold: number from 0 of the fold of patients that is the test split, in place of ``test_fraction``; folds have
            similar tumour volumes. None: no cross-validation.
        num_folds: number of folds, or ``patients`` to leave out one patient at a time.
        box: placement of the box: centred on the image (center), centred on the brain's bounding box (brain), or
            spanning the whole image at the spacing that fits it (resize).
        refuse_below: minimum share of tumour and brain inside the box; a subject below it is faulty.
        warn_below: share of tumour and brain inside the box below which a warning is logged.
        normalisation: intensity normalisation per subject and channel, see
            `menvae.data.cache.storage.Normalisation`.
        cache_format: ``arrays`` loads fastest, ``compressed`` is several times smaller; see
            `menvae.data.cache.storage`.
        on_error: how to handle faulty subjects: abort after checking all of them (fail), or leave them out (skip).
        missing_modalities: how to handle an absent modality: as a fault (fail), or as a note if the mask and at least
            one modality exist (allow). A damaged file is always a fault.
        pairs: whether to put visits of a training patient into batches in pairs, for terms that compare visits; rows of
            a batch are then not independent.
        checks_files: whether files can be faulty and must be checked; not a key.
    """

    checks_files: ClassVar[bool] = True
    split_keys: ClassVar[frozenset[str]] = SPLIT_KEYS
    outside_identity: ClassVar[frozenset[str]] = frozenset(
        {
            "on_error",
            "missing_modalities",
            "refuse_below",
            "warn_below",
        }  # the hash of the data covers which subjects remain
    )

    roi_size: tuple[Side, Side, Side]
    modalities: tuple[Modality, ...] = MODALITIES
    label_map: dict[Region, Label | tuple[Label, ...]] = field(default_factory=lambda: {"ncr": 1, "ed": 2, "et": 3})
    val_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    test_fraction: Fraction = 0.1
    split_seed: int = 42
    fold: Annotated[int, Field(ge=0)] | None = None
    num_folds: Annotated[int, Field(ge=2)] | Literal["patients"] = 5
    box: BoxStrategy = "center"
    refuse_below: KeptShares = field(default_factory=lambda: {"tumour": 0.5, "brain": 0.5})
    warn_below: KeptShares = field(default_factory=lambda: {"tumour": 0.98, "brain": 0.95})
    normalisation: Normalisation = "zscore"
    cache_format: CacheFormat = "arrays"
    on_error: Literal["skip", "fail"] = "fail"
    missing_modalities: Literal["fail", "allow"] = "fail"
    pairs: bool = False

    def __post_init__(self) -> None:
        """Validate the keys without reading any data."""
        twice = [name for name in self.modalities if self.modalities.count(name) > 1]
        if twice or not self.modalities:
            raise UserError(f"data.modalities: {f'{twice[0]} appears twice' if twice else 'at least one is needed'}")
        _ = self.regions, self.folds

    @property
    def folds(self) -> Folds | None:
        """The fold that is the test split, or None; raises `UserError` if it does not exist."""
        return Folds.of_keys(self.fold, self.num_folds)

    @property
    def regions(self) -> dict[int, Region]:
        """Value in the mask file -> region, the inverse of ``label_map``.

        Raises:
            UserError: if two regions share a value.
        """
        regions: dict[int, Region] = {}
        for region, labels in self.label_map.items():
            for label in labels if isinstance(labels, tuple) else (labels,):
                if label in regions:
                    unset = region if REGION_CODES[region] == label else regions[label]  # the one with its default
                    raise UserError(
                        f"data.label_map: {label} cannot be both {regions[label]} and {region}; if the masks have no "
                        f"{unset}, remove it with ~data.label_map.{unset}"
                    )
                regions[label] = region
        return regions

    @property
    def channels(self) -> tuple[str, ...]:
        """The modalities."""
        return self.modalities

    @property
    def size(self) -> tuple[int, int, int]:
        """The box size."""
        return self.roi_size

    @property
    def gives(self) -> frozenset[str]:
        """The mask and the patient identifier."""
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

    @property
    def input_identity(self) -> frozenset[str]:
        """The modalities: weights can be fine-tuned on another geometry."""
        return frozenset({"data.modalities"})

    @property
    def targets(self) -> Mapping[str, Target]:
        """Mask features; subclasses add the targets that they provide themselves."""
        return MASK_TARGETS

    @property
    def draws_pairs(self) -> bool:
        """The value of ``pairs``."""
        return self.pairs

    @property
    def cohort(self) -> CohortSource:
        """This source."""
        return self

    def load(self, request: DataRequest) -> Data:
        """Prepare and split the cohort, fit the targets, create the loaders."""
        return load_volumes(self, request)

    def find(self, request: DataRequest) -> Data | None:
        """Load from the cache; None if any subject has to be created, checked or prepared."""
        cohort = find_prepared(self, request.cache)
        return None if cohort is None else load_volumes(self, replace(request, prepared=cohort))

    def stream(self, request: StreamRequest) -> Stream:
        """Open the cohort for a single pass; subjects may lack their masks."""
        return stream_volumes(self, request)

    @property
    @abstractmethod
    def geometry(self) -> Geometry:
        """Target geometry of every subject."""

    @property
    def curves(self) -> Mapping[str, Gompertz]:
        """Patient -> ground-truth growth curve of its enhancing and necrotic tumour; usually empty."""
        return {}

    @abstractmethod
    def subjects(self, cache: Path, show: ShowProgress, num_workers: int | None = None) -> list[SubjectFiles]:
        """Return all subjects, sorted by identifier; sources that generate files write them below ``cache``.

        Raises:
            UserError: if the folder does not exist or has no subjects.
        """

    def found_subjects(self, cache: Path) -> list[SubjectFiles] | None:
        """Return all subjects without creating files; None if files have to be created or the source cannot tell.

        Raises:
            UserError: as for `subjects`.
        """
        return self.subjects(cache, unseen) if self.checks_files else None


def stream_volumes(source: VolumeSource, request: StreamRequest) -> Stream:
    """Find the subjects, and prepare them while they are read.

    Raises:
        UserError: if the source or its subjects are invalid.
    """
    found = mark_missing(source.subjects(request.cache, request.show, request.num_workers), source)
    subjects = [subject.without_absent_mask() for subject in found]
    without = sum(not subject.has_mask for subject in subjects)
    if without:
        _log.info("%d of %d visits have no mask, and so no measured features", without, len(subjects))
    note_missing(subjects)
    return Stream([subject.subject_id for subject in subjects], _stream(source, subjects, request))


def _stream(
    source: VolumeSource, subjects: Sequence[SubjectFiles], request: StreamRequest
) -> Iterator[tuple[Batch, Sequence[Visit]]]:
    lacks_modalities = any(subject.missing for subject in subjects)
    streamed = stream_subjects(subjects, source, request.cache, request.num_workers)
    while group := list(itertools.islice(streamed, request.batch_size)):
        samples = []
        for one in group:
            arrays = one.arrays.scaled(source.normalisation)
            there = [name not in one.files.missing for name in source.modalities]
            samples.append(
                Sample(
                    one.files.subject_id,
                    torch.from_numpy(arrays.image),
                    Intensities(torch.tensor(arrays.mean), torch.tensor(arrays.sd)),
                    torch.from_numpy(arrays.mask).unsqueeze(0),
                    targets={},
                    observed={},
                    patient_id=one.files.patient_id,
                    available=torch.tensor(there) if lacks_modalities else None,
                )
            )
        visits = [Visit(one.files.subject_id, one.files.patient_id, one.files.days, one.features) for one in group]
        yield collate(samples), visits


def load_volumes(source: VolumeSource, request: DataRequest) -> Data:
    """Prepare missing cache entries (main rank first), split, fit targets on training subjects, create loaders.

    Raises:
        UserError: if the source or its subjects are invalid.
    """
    cohort = request.prepared
    is_new = not isinstance(cohort, Cohort)
    if not isinstance(cohort, Cohort):
        with collectives.main_rank_first():
            cohort = prepare(source, request.cache, show=request.show)
    splits = split_cohort(cohort, source.val_fraction, source.test_fraction, source.split_seed, source.folds)
    if is_new:
        warn_of_small_splits(splits.values(), source.test_fraction, folds=source.folds)
    by_split = {split: subjects_of(cohort, splits, split) for split in SPLITS}
    training = [subject.features for subject in by_split["train"]]
    normalizer = request.normalizer or fit_targets(training, request.targets, request.supervision, source.targets)
    pairs = source.pairs and not (request.in_order or request.independently)
    patients = [subject.patient_id for subject in by_split["train"]] if pairs else None
    if patients is not None:
        check_pairs(patients, request.batch_size, request.num_ranks)
    loaders = {}
    for split, subjects in by_split.items():
        trains = split == "train" and not request.in_order
        dataset = SubjectDataset(
            subjects,
            normalizer,
            request.supervision,
            request.augmentation if trains else None,
            request.seed,
            source.normalisation,
            location_axes=location_axes(source.targets),
        )
        batches = EpochBatches(
            len(subjects),
            request.batch_size,
            shuffle=trains,
            seed=request.seed,
            rank=request.rank,
            num_ranks=request.num_ranks,
            patients=patients if trains else None,
        )
        loaders[split] = SplitLoader(dataset, batches, num_workers=request.num_workers, pin_memory=request.pin_memory)
    return Data(
        prepared=cohort,
        data_hash=cohort.data_hash,
        targets_hash=normalizer.hash,
        description=normalizer.as_dict(),
        splits=splits,
        split_columns=SPLIT_COLUMNS,
        split_rows=split_rows(cohort, splits),
        train=loaders["train"],
        val=loaders["val"],
        test=loaders["test"] if by_split["test"] else None,
        targets=FittedTargets(
            normalizer,
            {subject.subject_id: subject.features for subject in cohort.subjects},
            [subject.subject_id for subject in by_split["train"]],
        ),
        volumes=Volumes(cohort, source.modalities),
    )
