"""The interface between a run and its data source: volumes, table rows, or the data of a plugin.

A source declares the shape of one subject, the fields of its batches, its targets, the location of its data and the
keys that do not affect results, and it loads its data. Files, caches and scaling are internal to the source.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from menvae.data.batches.augmentation import AugmentationSettings
from menvae.data.batches.folds import Folds, without_unused
from menvae.data.batches.splits import Split
from menvae.data.cache.cohort import Cohort
from menvae.data.cache.prepare import Preparable
from menvae.data.targets.declaration import Target
from menvae.data.targets.normalizer import RawTargets, TargetNormalizer, TargetSettings
from menvae.data.workers import ShowProgress, unseen
from menvae.errors import UserError
from menvae.statistics.gompertz import Gompertz
from menvae.types import Batch, EpochLoader


@dataclass(frozen=True, kw_only=True)
class DataRequest:
    """What a run requests from its source.

    Attributes:
        cache: folder for data that is kept between runs.
        supervision: partition -> names of its targets.
        targets: target settings.
        augmentation: augmentation of training subjects.
        batch_size: subjects per rank and step.
        seed: seed of the run, for the order of the training subjects and their augmentation.
        num_workers: processes that load batches; 0 loads in this process.
        pin_memory: whether to pin host memory for copies to a GPU.
        rank: rank of this process.
        num_ranks: number of ranks.
        show: progress display.
        prepared: `Data.prepared` of an earlier call, to skip preparation.
        normalizer: that of the targets of an earlier call, to neither fit it nor warn of its targets again.
        in_order: for inspection instead of training: keep every split in ``splits.csv`` order, without augmentation.
        independently: draw training subjects independently of each other, even with ``data.pairs=true``.
        learns_classes: whether the run learns the labels of subjects, where they have any.
    """

    cache: Path
    supervision: Mapping[str, Sequence[str]]
    targets: TargetSettings
    augmentation: AugmentationSettings
    batch_size: int
    seed: int
    num_workers: int = 0
    pin_memory: bool = False
    rank: int = 0
    num_ranks: int = 1
    show: ShowProgress = unseen
    prepared: object = None
    normalizer: TargetNormalizer | None = None
    in_order: bool = False
    independently: bool = False
    learns_classes: bool = True


@dataclass(frozen=True, kw_only=True)
class StreamRequest:
    """What encoding requests from the source of a cohort that no run was trained on.

    Attributes:
        cache: folder for data that is kept between runs; prepared subjects in it are used, and none are added.
        description: the fitted statistics of the run that encodes, from ``targets.json``.
        batch_size: subjects per batch.
        num_workers: processes that prepare subjects; None uses one per core.
        show: progress display.
    """

    cache: Path
    description: Mapping[str, Any]
    batch_size: int
    num_workers: int | None = None
    show: ShowProgress = unseen


@dataclass(frozen=True)
class Visit:
    """One subject of a cohort, as tables of latents describe it.

    Attributes:
        subject_id: identifier.
        patient_id: its patient; empty if unknown.
        days: days since the patient's first visit; None if unknown.
        raw: {target: value in its unit, None where not observed}.
        label: name of its class; empty if unknown.
    """

    subject_id: str
    patient_id: str
    days: float | None
    raw: RawTargets
    label: str = ""


@dataclass(frozen=True)
class Stream:
    """A cohort that no run was trained on, to be read once.

    Attributes:
        subject_ids: identifiers of all subjects; faulty ones may be left out of the batches.
        batches: batches in order, without targets, with the visits of their rows.
    """

    subject_ids: Sequence[str]
    batches: Iterator[tuple[Batch, Sequence[Visit]]]


@dataclass(frozen=True)
class FittedTargets:
    """Raw targets of all subjects and their fitted normalisation.

    Attributes:
        normalizer: fitted on the training subjects.
        raw: subject -> {target: value in its unit, None where not observed}, for every split.
        training: identifiers of the training subjects.
    """

    normalizer: TargetNormalizer
    raw: Mapping[str, RawTargets]
    training: Sequence[str]


@dataclass(frozen=True)
class Volumes:
    """Data for pictures of volumes.

    Attributes:
        cohort: all prepared subjects.
        modalities: names of the channels.
    """

    cohort: Cohort
    modalities: Sequence[str]


@dataclass(frozen=True)
class RowsToEmbed:
    """Rows whose posterior means are written to a file at the end of a run.

    Attributes:
        rows: all rows in order, on this process.
        labels: class index of each row [N], -1 where unknown.
        rows_hash: hash of the embedded values, without labels and groups.
        others: name -> embeddings [N, Z] of the same rows by another run, added to the file; usually empty.
    """

    rows: EpochLoader
    labels: NDArray[np.int64]
    rows_hash: str
    others: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Data:
    """Split data with loaders, ready for training.

    Attributes:
        prepared: source-specific object for `DataRequest.prepared`.
        data_hash: hash of the content.
        targets_hash: hash of everything fitted on the training subjects; equal hashes mean equal learning targets.
        description: the fitted statistics, for ``targets.json``.
        splits: subject -> split.
        split_columns: columns of ``splits.csv``.
        split_rows: rows of ``splits.csv``, one per subject.
        train, val: batches of this rank.
        test: batches of the test split on this rank; None if it is empty.
        classes: class names by label index; empty without labels.
        targets: targets of all subjects, or None if there are none.
        volumes: data for pictures of volumes, or None.
        embedded: rows to embed at the end of the run, or None.
    """

    prepared: object
    data_hash: str
    targets_hash: str
    description: Mapping[str, Any]
    splits: Mapping[str, Split]
    split_columns: Sequence[str]
    split_rows: Sequence[Sequence[str]]
    train: EpochLoader
    val: EpochLoader
    test: EpochLoader | None = None
    classes: tuple[str, ...] = ()
    targets: FittedTargets | None = None
    volumes: Volumes | None = None
    embedded: RowsToEmbed | None = None

    @property
    def num_training_subjects(self) -> int:
        """Size of the training split."""
        return sum(split == "train" for split in self.splits.values())


class CohortSource(Preparable, Protocol):
    """A source of volumes as ``menvae-prepare`` sees it; `menvae.data.volumes.VolumeSource` documents the keys."""

    @property
    def roi_size(self) -> tuple[int, int, int]:
        """(D, H, W) of the training box in voxels."""

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the modalities."""

    @property
    def val_fraction(self) -> float:
        """Share of the patients for validation."""

    @property
    def test_fraction(self) -> float:
        """Share of the patients for test."""

    @property
    def split_seed(self) -> int:
        """Seed of the random split."""

    @property
    def folds(self) -> Folds | None:
        """The fold that is the test split, or None."""

    @property
    def targets(self) -> Mapping[str, Target]:
        """Name -> declaration of each target."""

    @property
    def curves(self) -> Mapping[str, Gompertz]:
        """Patient -> ground-truth growth curve of its tumour; usually empty."""


class DataSource(ABC):
    """A registered part of group ``data``: a frozen dataclass of keys that can load its data.

    Attributes:
        outside_identity: keys excluded from the run hash because they do not change results: locations of data, and
            keys that the hash of the data covers. Include the path of a store, so that the store can move.
        added_keys: key -> value equivalent to the behaviour before the key existed; runs with this value keep their old
            hash.
        split_keys: keys with defaults that only say which subjects are in which split: neither what a source declares
            in its properties nor `Data.prepared` depends on them. A source of a plugin has to declare its own.
    """

    split_keys: ClassVar[frozenset[str]] = frozenset()
    outside_identity: ClassVar[frozenset[str]] = frozenset()
    added_keys: ClassVar[Mapping[str, object]] = MappingProxyType({})

    @classmethod
    def own_split_keys(cls) -> frozenset[str]:
        """Return `split_keys`, or none for a source of a plugin that inherits them: it may use them in another way."""
        return cls.split_keys if cls.is_of_menvae() or "split_keys" in vars(cls) else frozenset()

    @classmethod
    def is_of_menvae(cls) -> bool:
        """Return whether this source is a part of menvae, whose code is known."""
        return cls.__module__.startswith("menvae.")

    @classmethod
    def canonical(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return a configuration ``data`` without those `added_keys` that have their old-behaviour value.

        Keys that have no effect with, or without, a fold are left out, too.
        """
        added = cls.added_keys
        return without_unused({key: value for key, value in config.items() if key not in added or value != added[key]})

    @property
    @abstractmethod
    def channels(self) -> tuple[str, ...]:
        """Names of the C channels of an input [B, C, ...]."""

    @property
    @abstractmethod
    def size(self) -> tuple[int, ...]:
        """Input shape after B and C: (D, H, W) for volumes, empty for table rows."""

    @property
    @abstractmethod
    def gives(self) -> frozenset[str]:
        """Optional batch fields that this source fills (see `menvae.terms.Term.batch_requires`)."""

    @property
    @abstractmethod
    def value_range(self) -> tuple[float, float]:
        """Bounds of the input values; infinite if unbounded."""

    @property
    @abstractmethod
    def identity(self) -> Mapping[str, str]:
        """Properties that must match between a checkpoint and a run that resumes from it, by configuration key."""

    @property
    def input_identity(self) -> frozenset[str]:
        """Keys of `identity` that must match even if a run only starts from the weights of another; all by default."""
        return frozenset(self.identity)

    @property
    def targets(self) -> Mapping[str, Target]:
        """Name -> declaration of each target that ``model.supervision`` may use; none by default."""
        return {}

    @property
    def factor_groups(self) -> Mapping[str, Sequence[str]]:
        """Group -> names of the generative factors that `factors` returns; none by default."""
        return {}

    def factors(self, subject_ids: Sequence[str]) -> Mapping[str, Mapping[str, float]]:
        """Return subject -> {factor: value}, the ground truth of generated subjects; none by default.

        Metrics compare partitions with groups of factors (`menvae.metrics.generative_factors`).

        Args:
            subject_ids: identifiers of subjects of this source.
        """
        return {}

    @property
    def location(self) -> str | None:
        """Location of the data, as written by the user; None for generated data."""
        return None

    @property
    def files(self) -> Sequence[Path] | None:
        """Files and folders that, with the keys, determine the data; none if they are generated; None if unknown.

        A run that has ended is answered without its data only if they are known and unchanged. A source of a plugin has
        to declare them itself: what it inherits does not count, because it may read further files.
        """
        return None

    @property
    def draws_pairs(self) -> bool:
        """Whether batches pair visits of one patient, so that their rows are not independent."""
        return False

    @property
    def cohort(self) -> CohortSource | None:
        """The source for ``menvae-prepare``; None if no preparation is needed."""
        return None

    @abstractmethod
    def load(self, request: DataRequest) -> Data:
        """Prepare, split and fit the data; called on all ranks.

        Raises:
            UserError: if the data are invalid.
        """

    def stream(self, request: StreamRequest) -> Stream:
        """Open the cohort for a single pass, without splits and without fitting anything to it.

        The default refuses.

        Raises:
            UserError: the data are invalid, or this source cannot do it.
        """
        raise UserError("data: this source provides only the data that a run was trained on, not other cohorts")

    def find(self, request: DataRequest) -> Data | None:
        """Load the data if they are already prepared, for previews of a sweep; otherwise return None.

        The default returns None.

        Raises:
            UserError: if the data are invalid.
        """
        return None
