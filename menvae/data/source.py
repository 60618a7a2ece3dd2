"""What a run asks of a source of data, whatever it holds: volumes, the rows of a table, or something of a plugin.

A source declares the shape of one subject, what a batch of it offers, its targets, where its data lie and which of its
keys do not change a result; and it loads itself. Everything behind the loading (files, caches, scaling) is its own
business.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from menvae.data.batches.augmentation import AugmentationSettings
from menvae.data.batches.splits import Split
from menvae.data.cache.cohort import Cohort
from menvae.data.cache.prepare import Preparable
from menvae.data.targets.declaration import Target
from menvae.data.targets.normalizer import RawTargets, TargetNormalizer, TargetSettings
from menvae.data.workers import ShowProgress, unseen
from menvae.statistics.gompertz import Gompertz
from menvae.types import EpochLoader


@dataclass(frozen=True, kw_only=True)
class DataRequest:
    """What a run wants of its source.

    Attributes:
        cache: folder for whatever is worth keeping between runs.
        supervision: partition -> names of its targets.
        targets: how targets are made of features.
        augmentation: of training subjects.
        batch_size: subjects a rank and step.
        seed: of the run: order of the training subjects, and their augmentation.
        num_workers: processes that load batches; 0 loads in this one.
        pin_memory: for copies to a GPU.
        rank: of this process.
        num_ranks: processes that train together.
        show: how to show progress.
        prepared: `Data.prepared` of an earlier call, if nothing needs to be prepared again.
        in_order: for a look at the data instead of training: every split in the order of ``splits.csv``, without
            augmentation.
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
    in_order: bool = False


@dataclass(frozen=True)
class FittedTargets:
    """The targets of all subjects as they were measured, and how a model sees them.

    Attributes:
        normalizer: fitted on the training subjects.
        raw: subject -> {target: value in its unit, None where it was not observed}, of every split.
        training: identifiers of the training subjects.
    """

    normalizer: TargetNormalizer
    raw: Mapping[str, RawTargets]
    training: Sequence[str]


@dataclass(frozen=True)
class Volumes:
    """What pictures of volumes are drawn from.

    Attributes:
        cohort: all prepared subjects.
        modalities: names of the channels.
    """

    cohort: Cohort
    modalities: Sequence[str]


@dataclass(frozen=True)
class RowsToEmbed:
    """Rows whose posterior means go into a file at the end of a run.

    Attributes:
        rows: all of them, in their order, on this process.
        labels: class index of each, -1 where it is not known [N].
        rows_hash: of what is embedded, whatever is known of it besides.
        others: name -> embeddings of the same rows by another run [N, Z], which the file gets too; often none.
    """

    rows: EpochLoader
    labels: NDArray[np.int64]
    rows_hash: str
    others: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Data:
    """Data, split and ready to learn from.

    Attributes:
        prepared: what need not be prepared again; the source's own.
        data_hash: of the content.
        targets_hash: of what was fitted on the training subjects: two runs with the same learn the same.
        description: of what was fitted, for ``targets.json``.
        splits: subject -> split.
        split_columns: of ``splits.csv``.
        split_rows: of ``splits.csv``, one a subject.
        train, val: batches of this rank.
        test: the same of the subjects that training never sees, as ``val``; None where there are none.
        classes: names of the classes that labels count; empty without labels.
        targets: of all subjects, or None where the source has none.
        volumes: what pictures of volumes need, or None.
        embedded: rows to embed at the end, or None.
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
    """What ``menvae-prepare`` describes: a source of volumes; `menvae.data.volumes.VolumeSource` explains the keys."""

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
    def targets(self) -> Mapping[str, Target]:
        """Name -> what it is."""

    @property
    def curves(self) -> Mapping[str, Gompertz]:
        """Patient -> the curve that its tumour is known to follow; usually none."""


class DataSource(ABC):
    """A registered part of group ``data``: a frozen dataclass of keys that can load itself.

    Attributes:
        outside_identity: keys that do not change the result of a run, and so not its hash: where the data lie, and what
            the hash of the data covers. The path of a store belongs here, so that a store may move.
        added_keys: key -> value that leaves a run as it was before the source had the key; a run with this value keeps
            the hash of the runs from before.
    """

    outside_identity: ClassVar[frozenset[str]] = frozenset()
    added_keys: ClassVar[Mapping[str, object]] = MappingProxyType({})

    @classmethod
    def canonical(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return a configuration ``data`` without `added_keys` that have the value of before."""
        return {
            key: value for key, value in config.items() if key not in cls.added_keys or value != cls.added_keys[key]
        }

    @property
    @abstractmethod
    def channels(self) -> tuple[str, ...]:
        """Names of the C channels of an input [B, C, ...]."""

    @property
    @abstractmethod
    def size(self) -> tuple[int, ...]:
        """What follows B and C in the shape of an input: (D, H, W) of a volume, nothing for the row of a table."""

    @property
    @abstractmethod
    def gives(self) -> frozenset[str]:
        """Fields of a batch that not every source fills (see `menvae.terms.Term.batch_requires`)."""

    @property
    @abstractmethod
    def value_range(self) -> tuple[float, float]:
        """Bounds of the values of an input, infinite where there are none."""

    @property
    @abstractmethod
    def identity(self) -> Mapping[str, str]:
        """What a checkpoint must have in common with a run that goes on from it, under the names users know."""

    @property
    def targets(self) -> Mapping[str, Target]:
        """Name -> what it is, of everything that ``model.supervision`` may name; none by default."""
        return {}

    @property
    def location(self) -> str | None:
        """Where the data lie, as the user wrote it; None where the source draws them."""
        return None

    @property
    def draws_pairs(self) -> bool:
        """Whether visits of one patient meet in a batch, whose rows are then not independent draws."""
        return False

    @property
    def cohort(self) -> CohortSource | None:
        """What ``menvae-prepare`` prepares and describes; None where a run needs no preparation."""
        return None

    @abstractmethod
    def load(self, request: DataRequest) -> Data:
        """Prepare, split and fit what is needed; on all ranks.

        Raises:
            UserError: what is wrong with the data.
        """

    def find(self, request: DataRequest) -> Data | None:
        """Load what needs no preparation, for a look at a sweep before it is run; None if something is to be prepared.

        A source that does not say what it has prepared has prepared nothing.

        Raises:
            UserError: what is wrong with the data.
        """
        return None
