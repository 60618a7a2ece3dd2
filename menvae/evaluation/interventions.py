"""Interventions: one partition of z is moved to that of another patient, and the image is decoded again.

The pairs of patients are the same for all partitions and for the pictures: each subject and the one before it that is
of another patient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from menvae.evaluation.decoding import decoded, device_of, first_channel, precision_of
from menvae.metrics import Floats, SplitRecord
from menvae.models import Model
from menvae.pictures import Swaps
from menvae.references.reader import FeatureReader
from menvae.statistics.patients import Indices, previous_of_another
from menvae.training.settings import TrainerSettings

NUM_SWAPS = 3
"""Number of pairs of patients in the picture."""


def reader_columns(reader: FeatureReader, supervision: Mapping[str, Sequence[str]]) -> list[int]:
    """Return the column that a reader gives each target, in the order of the supervision.

    Raises:
        ValueError: it does not read one of the targets.
    """
    targets = [name for names in supervision.values() for name in names]
    if missing := [name for name in targets if name not in reader.targets]:
        raise ValueError(f"the reader does not read {', '.join(missing)}, only {', '.join(reader.targets)}")
    return [reader.targets.index(name) for name in targets]


def with_interventions(
    record: SplitRecord, model: Model, reader: FeatureReader, trainer: TrainerSettings
) -> SplitRecord:
    """Return a record with what a reader sees change, ``moved.<partition>`` and ``asked`` (see `menvae.metrics.NEEDS`).

    Args:
        record: record of a split, which is returned as it is if it has a single patient.
        model: model that decodes images.
        reader: reads all targets of the model, from the channels that a subject has.
        trainer: precision and batch size of the run.
    """
    others = _others(record)
    if others is None:
        return record
    columns = reader_columns(reader, model.supervision)
    mean, available = record.arrays["mean"], record.arrays.get("available")
    channels = None if available is None else torch.from_numpy(available > 0).to(device_of(model))

    def read(latents: Floats) -> Floats:
        found: list[Floats] = []
        first = 0
        for images in decoded(model, latents, trainer):
            rows = slice(first, first + len(images))
            with precision_of(model, trainer):
                z_scores = reader.read(images, None if channels is None else channels[rows])
            found.append(z_scores[:, columns].double().cpu().numpy())
            first += len(images)
        return np.concatenate(found)

    unchanged = read(mean)
    moved = {
        f"moved.{name}": read(_with_partition(model, mean, mean[others], name)) - unchanged for name in model.layout
    }
    targets = np.stack(list(record.by_target(model.supervision).values()), axis=1)
    return replace(record, arrays={**record.arrays, **moved, "asked": targets[others] - targets})


def swaps(model: Model, record: SplitRecord, trainer: TrainerSettings) -> Swaps | None:
    """Decode pairs of patients with each partition of the second moved to the first; None for a single patient.

    Args:
        model: model with the best weights.
        record: record of a split of volumes.
        trainer: precision and batch size of the run.
    """
    others = _others(record)
    if others is None:
        return None
    num = len(record.subject_id)
    chosen = np.unique(np.linspace(0, num - 1, min(NUM_SWAPS, num)).round().astype(np.intp))
    mean = record.arrays["mean"]
    own, foreign = mean[chosen], mean[others[chosen]]
    latents = [own, *(_with_partition(model, own, foreign, name) for name in model.layout), foreign]
    columns = [first_channel(model, some, trainer) for some in latents]
    names = [(record.subject_id[row], record.subject_id[others[row]]) for row in chosen]
    return Swaps(names, np.stack(columns, axis=1))


def _others(record: SplitRecord) -> Indices | None:
    """Return the row of the other patient for each row [N]; None for a single patient."""
    found = previous_of_another(record.patient_id)
    known = [row for row in found if row is not None]
    return np.array(known, dtype=np.intp) if len(known) == len(found) else None


def _with_partition(model: Model, own: Floats, foreign: Floats, name: str) -> Floats:
    """Return latents [N, Z] with one partition of other latents [N, Z]."""
    start, stop = model.layout.bounds(name)
    latents = own.copy()
    latents[:, start:stop] = foreign[:, start:stop]
    return latents
