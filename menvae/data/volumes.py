"""Sources of volumes: their keys, and how prepared subjects become batches with targets."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from menvae import collectives
from menvae.data.batches.cohort_splits import SPLIT_COLUMNS, split_cohort, split_rows, subjects_of
from menvae.data.batches.dataset import SplitLoader, SubjectDataset
from menvae.data.batches.order import EpochBatches
from menvae.data.batches.pairs import check_pairs
from menvae.data.batches.splits import SPLITS
from menvae.data.cache.cohort import Cohort
from menvae.data.cache.prepare import find_prepared, prepare
from menvae.data.cache.storage import CacheFormat, Normalisation
from menvae.data.files.subjects import MODALITIES, Modality, Region, SubjectFiles
from menvae.data.geometry.box import BoxStrategy, KeptShares
from menvae.data.geometry.transforms import Geometry
from menvae.data.source import CohortSource, Data, DataRequest, DataSource, FittedTargets, Volumes
from menvae.data.targets.declaration import MASK_TARGETS, Target, location_axes
from menvae.data.targets.fit import fit_targets
from menvae.data.workers import ShowProgress, unseen
from menvae.errors import UserError
from menvae.registry import Field
from menvae.statistics.gompertz import Gompertz

Positive = Annotated[float, Field(gt=0.0)]
Side = Annotated[int, Field(ge=1)]
Label = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


@dataclass(frozen=True, kw_only=True)
class VolumeSource(DataSource):
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
        normalisation: of the intensities of each subject and channel, see `menvae.data.cache.storage.Normalisation`.
        cache_format: ``arrays`` loads fastest, ``compressed`` is several times smaller; see
            `menvae.data.cache.storage`.
        on_error: what a faulty subject does: fail the preparation, after all subjects are looked at, or be left out
            (skip).
        missing_modalities: what a modality is whose file does not exist: a fault (fail), or a note (allow), and the
            subject has the others; one at least, and the mask. A file that is damaged is a fault.
        pairs: whether the visits of a training patient come in pairs, each in one batch of one process, for terms that
            compare visits; batches are then no independent draws.
        checks_files: whether files may be faulty; not a key.
    """

    checks_files: ClassVar[bool] = True
    outside_identity: ClassVar[frozenset[str]] = frozenset(
        {
            "on_error",
            "missing_modalities",
            "refuse_below",
            "warn_below",
        }  # which subjects there are is in the data's hash
    )

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

    @property
    def targets(self) -> Mapping[str, Target]:
        """What the mask is measured for; a source that knows more of its subjects adds it."""
        return MASK_TARGETS

    @property
    def draws_pairs(self) -> bool:
        """As configured."""
        return self.pairs

    @property
    def cohort(self) -> CohortSource:
        """Itself."""
        return self

    def load(self, request: DataRequest) -> Data:
        """Prepare, split, fit the targets, make loaders."""
        return load_volumes(self, request)

    def find(self, request: DataRequest) -> Data | None:
        """Do the same with what is in the cache; None if a subject is to be made, checked or prepared."""
        cohort = find_prepared(self, request.cache)
        return None if cohort is None else load_volumes(self, replace(request, prepared=cohort))

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

    def found_subjects(self, cache: Path) -> list[SubjectFiles] | None:
        """Return all subjects without making any file; None if files are to be made, or a source cannot say.

        Raises:
            UserError: as `subjects`.
        """
        return self.subjects(cache, unseen) if self.checks_files else None


def load_volumes(source: VolumeSource, request: DataRequest) -> Data:
    """Prepare what the cache lacks (main rank), split, fit targets on training subjects, make loaders.

    Raises:
        UserError: what is wrong with the source or with its subjects.
    """
    cohort = request.prepared
    if not isinstance(cohort, Cohort):
        with collectives.main_rank_first():
            cohort = prepare(source, request.cache, show=request.show)
    splits = split_cohort(cohort, source.val_fraction, source.test_fraction, source.split_seed)
    by_split = {split: subjects_of(cohort, splits, split) for split in SPLITS}
    training = [subject.features for subject in by_split["train"]]
    normalizer = fit_targets(training, request.targets, request.supervision, source.targets)
    patients = [subject.patient_id for subject in by_split["train"]] if source.pairs and not request.in_order else None
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
