"""The cohort of a run as references see it: its splits, its targets, and the encoder of the run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from menvae.data.targets.normalizer import TargetNormalizer
from menvae.encoders import Encoder
from menvae.types import Batch, EpochLoader


@dataclass(frozen=True)
class ReferenceCohort:
    """Everything that references are computed from.

    Attributes:
        train: training subjects, in an order that depends on the epoch, augmented as in the run; the batches do not
            depend on those of the run.
        splits: ``train``, ``val`` and, unless it is empty, ``test``, in order and without augmentation.
        num_subjects: number of subjects in all splits.
        num_observed: number of training subjects that have the targets, for each group of targets that the same
            training subjects have.
        supervision: partition -> names of its targets, as in the run.
        normalizer: normalisation of the targets, fitted on the training subjects.
        num_channels: C, number of modalities or columns.
        size: (D, H, W) in voxels; empty for the rows of a table.
        spacing_mm: subject -> voxel size along D, H, W; empty if the cohort has no masks.
        build_encoder: builds the encoder of the run with new weights.
        z_dim: Z, size of the posterior mean.
        identity: what all references depend on: hashes of data and targets, split, and form of the images.
        training_identity: what trained references depend on, too: the augmentation.
        encoder_identity: what the ceiling depends on, too: the configuration of the encoder.
        device: device to train on.
        memory_format: memory format of volumes.
        chunk_size: subjects of a batch that pass through a network at once, for its memory; None: all of them.
    """

    train: EpochLoader
    splits: Mapping[str, EpochLoader]
    num_subjects: int
    num_observed: Sequence[int]
    supervision: Mapping[str, Sequence[str]]
    normalizer: TargetNormalizer
    num_channels: int
    size: tuple[int, ...]
    spacing_mm: Mapping[str, tuple[float, float, float]]
    build_encoder: Callable[[], Encoder] = field(repr=False)
    z_dim: int
    identity: Mapping[str, object]
    training_identity: Mapping[str, object]
    encoder_identity: Mapping[str, object]
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - immutable
    memory_format: torch.memory_format = torch.contiguous_format
    chunk_size: int | None = None

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of all supervised targets, partition by partition; the order of all columns [F]."""
        return tuple(name for names in self.supervision.values() for name in names)

    @property
    def judged(self) -> list[str]:
        """The splits that references are judged on: validation and, unless it is empty, test."""
        return [split for split in ("val", "test") if split in self.splits]

    @property
    def num_values(self) -> int:
        """Number of values that one pass over all subjects reads."""
        return self.num_subjects * self.num_channels * math.prod(self.size)

    def batches(self, split: str) -> Iterator[Batch]:
        """Yield the batches of a split in order, normalised and on the device."""
        for stored in self.splits[split].epoch(0):
            yield self.on_device(stored)

    def on_device(self, stored: Batch) -> Batch:
        """Return a batch of stored values as model inputs."""
        return stored.to(self.device, self.memory_format)

    def truth(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the z-scored targets of a batch [B, F], 0 where not observed, and whether each was observed."""
        supervised = [partition for partition, names in self.supervision.items() if names]
        return (
            torch.cat([batch.targets[partition] for partition in supervised], dim=1),
            torch.cat([batch.observed[partition] for partition in supervised], dim=1),
        )
