"""Prepared subjects -> batches, in an order that depends only on seed and epoch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from menvae.data.batches.augmentation import LOCATION_AXES, AugmentationSettings, augment
from menvae.data.batches.order import Draw, EpochBatches
from menvae.data.cache.cohort import PreparedSubject
from menvae.data.cache.storage import Normalisation
from menvae.data.targets.normalizer import RawTargets, TargetNormalizer
from menvae.errors import UserError
from menvae.interruption import leave_stopping_to_parent
from menvae.types import Batch, Intensities


@dataclass(frozen=True)
class Sample:
    """One subject with its stored voxel values.

    Attributes:
        subject_id: subject identifier.
        image: stored values [C, D, H, W].
        intensities: mean and standard deviation that normalise them, [C] each.
        mask: region codes [1, D, H, W].
        targets: {partition: z-scored targets [F]}, 0 where not observed.
        observed: {partition: whether each target was observed, bool [F]}.
        days: days since the patient's first visit; None unless known for every subject of the dataset.
        patient_id: patient identifier.
        available: which modalities the subject has, bool [C]; None if no subject of the dataset lacks one.
    """

    subject_id: str
    image: Tensor
    intensities: Intensities
    mask: Tensor
    targets: Mapping[str, Tensor]
    observed: Mapping[str, Tensor]
    days: float | None = None
    patient_id: str = ""
    available: Tensor | None = None


class SubjectDataset(Dataset[Sample]):
    """Subjects of one split."""

    def __init__(
        self,
        subjects: Sequence[PreparedSubject],
        normalizer: TargetNormalizer,
        supervision: Mapping[str, Sequence[str]],
        augmentation: AugmentationSettings | None = None,
        seed: int = 0,
        normalisation: Normalisation = "zscore",
        location_axes: Mapping[str, int] = LOCATION_AXES,
    ) -> None:
        """Normalise the targets.

        Args:
            subjects: cache entries.
            normalizer: fitted on the training subjects.
            supervision: partition -> names of its targets.
            augmentation: training augmentation; None disables it.
            seed: augmentation depends only on this seed, the epoch and the subject.
            normalisation: intensity normalisation.
            location_axes: location target -> axis of the box along which it is a fraction.
        """
        self._location_axes = location_axes
        self._normalisation: Normalisation = normalisation
        self.subjects = list(subjects)
        self._normalizer, self._supervision, self._seed = normalizer, supervision, seed
        self._augmentation = augmentation if augmentation and augmentation.does_something else None
        self._targets = [self._normalised(subject.features) for subject in subjects]
        self._lacks_modalities = any(subject.missing_channels for subject in subjects)
        self._has_times = all(subject.days is not None for subject in subjects)

    def _normalised(self, features: RawTargets) -> dict[str, list[float | None]]:
        return {
            partition: [self._normalizer.normalise(features, name) for name in names]
            for partition, names in self._supervision.items()
        }

    def __len__(self) -> int:
        return len(self.subjects)

    def __getitem__(self, draw: Draw) -> Sample:
        subject, targets = self.subjects[draw.number], self._targets[draw.number]
        stored = subject.load().scaled(self._normalisation)
        if self._augmentation is not None and draw.epoch > 0:
            random = np.random.default_rng([self._seed, draw.epoch, draw.number])
            stored, features = augment(stored, subject.features, self._augmentation, random, self._location_axes)
            targets = self._normalised(features)
        return Sample(
            subject.subject_id,
            torch.from_numpy(stored.image),
            Intensities(torch.tensor(stored.mean), torch.tensor(stored.sd)),
            torch.from_numpy(stored.mask).unsqueeze(0),
            {name: torch.tensor([value or 0.0 for value in values]) for name, values in targets.items()},
            {name: torch.tensor([value is not None for value in values]) for name, values in targets.items()},
            subject.days if self._has_times else None,
            subject.patient_id,
            self._available(subject, len(stored.image)) if self._lacks_modalities else None,
        )

    @staticmethod
    def _available(subject: PreparedSubject, num_channels: int) -> Tensor:
        return torch.tensor([channel not in subject.missing_channels for channel in range(num_channels)])


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples into a batch of stored values; `Batch.to` normalises them."""
    partitions = list(samples[0].targets)
    kinds = {sample.image.dtype for sample in samples}
    common = kinds.pop() if len(kinds) == 1 else torch.float32
    days = [sample.days for sample in samples if sample.days is not None]
    available = [sample.available for sample in samples if sample.available is not None]
    return Batch(
        inputs=torch.stack([sample.image.to(common) for sample in samples]),
        intensities=Intensities(
            torch.stack([sample.intensities.mean for sample in samples]),
            torch.stack([sample.intensities.sd for sample in samples]),
        ),
        subject_id=tuple(sample.subject_id for sample in samples),
        patient_id=tuple(sample.patient_id for sample in samples),
        targets={name: torch.stack([sample.targets[name] for sample in samples]) for name in partitions},
        observed={name: torch.stack([sample.observed[name] for sample in samples]) for name in partitions},
        mask=torch.stack([sample.mask for sample in samples]),
        time=torch.tensor(days, dtype=torch.float32) if len(days) == len(samples) else None,
        available=torch.stack(available) if available else None,
    )


class SplitLoader:
    """Batches of one split, epoch by epoch."""

    def __init__(self, dataset: SubjectDataset, batches: EpochBatches, *, num_workers: int, pin_memory: bool) -> None:
        """Create the loader.

        Args:
            dataset: subjects of the split.
            batches: order of the subjects.
            num_workers: loading processes; 0 loads in this process.
            pin_memory: pin host memory for copies to a GPU.
        """
        self.batches = batches
        self._loader = DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=pin_memory,
            worker_init_fn=_start_worker,
        )

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches per epoch."""
        return self.batches.steps_per_epoch

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, starting at ``first_step``.

        Raises:
            UserError: a cache entry is damaged and cannot be prepared anew.
        """
        self.batches.start(epoch, first_step)
        try:
            yield from self._loader
        except UserError as error:  # that of a worker holds the traceback there, and ends with the message
            raise UserError(re.sub(r"^[\w.]+Error: ", "", str(error).strip().splitlines()[-1])) from None


def _start_worker(index: int) -> None:
    leave_stopping_to_parent()
