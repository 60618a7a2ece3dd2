"""References of a run: from the cache of its output directory, or computed for its cohort."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache, partial

import numpy as np
import torch

from menvae.composition.experiment import Experiment
from menvae.data.batches.splits import Split
from menvae.data.digests import digest_of
from menvae.data.source import Data, FittedTargets
from menvae.errors import UserError
from menvae.evaluation.estimates import estimate
from menvae.evaluation.final import FinalEvaluation
from menvae.metrics import MetricContext, SplitRecord
from menvae.metrics.r2 import TargetR2
from menvae.references.ceiling import CeilingReader
from menvae.references.cohort import ReferenceCohort
from menvae.references.find import Compute, cached_ceiling, find_references
from menvae.references.readings import Readings
from menvae.references.store import ReferenceStore
from menvae.runs.identity import as_typed
from menvae.runs.start import digests_of_checkpoints
from menvae.statistics.estimate import Estimate
from menvae.training.place import Place
from menvae.training.settings import TrainerSettings
from menvae.types import Batch, EpochLoader

References = Mapping[str, Mapping[str, Mapping[str, Estimate]]]
"""Split -> target or partition -> kind of reference -> its R2."""

_TRUTH = ("targets", "observed")
BATCH_SIZE, BATCH_SIZE_OF_ROWS = 8, 64
"""Batches of volumes and of rows of a table, whatever those of the run."""


def check_references(experiment: Experiment, name: str) -> None:
    """Raise `UserError` if a run has no targets that a reference could read."""
    if not any(experiment.supervision.values()):
        raise UserError(
            f"references: run '{name}' has no targets (model.supervision), so that there is no R2 to refer to"
        )


def reference_cohort(experiment: Experiment, data: Data, device: torch.device) -> ReferenceCohort | None:
    """Return the cohort of a run for references, or None if it has no targets.

    Args:
        experiment: the configuration.
        data: data of the run, whose prepared subjects are used again.
        device: device to train on.
    """
    if data.targets is None or not any(experiment.supervision.values()):
        return None
    trainer: TrainerSettings = experiment.settings["trainer"]
    names = [name for of_partition in experiment.supervision.values() for name in of_partition]
    here = Place(device, 0, 1)
    source, augmentation = experiment.source, experiment.settings["augmentation"]
    batch_size = BATCH_SIZE if source.size else BATCH_SIZE_OF_ROWS
    request = replace(
        experiment.data_request(here, data.prepared),
        normalizer=data.targets.normalizer,
        seed=0,
        batch_size=batch_size,
        independently=True,
    )
    in_order = cache(partial(source.load, replace(request, in_order=True)))
    splits: list[Split] = ["train", "val", *(["test"] if data.test is not None else [])]  # type: ignore[list-item]
    encoder = experiment.parts["encoder"]
    return ReferenceCohort(
        train=_LoadedLater(cache(partial(source.load, request)), "train"),
        splits={split: _LoadedLater(in_order, split) for split in splits},
        num_subjects=len(data.splits),
        num_observed=_num_observed(data.targets, names),
        supervision=experiment.supervision,
        normalizer=data.targets.normalizer,
        num_channels=len(source.channels),
        size=tuple(source.size),
        spacing_mm={subject.subject_id: subject.spacing_mm for subject in data.volumes.cohort.subjects}
        if data.volumes is not None and "mask" in source.gives
        else {},
        build_encoder=partial(encoder, len(source.channels), source.size, experiment.layout),
        z_dim=experiment.layout.z_dim,
        identity={
            "data_hash": data.data_hash,
            "targets_hash": data.targets_hash,
            "splits": digest_of(sorted(data.splits.items())),
            "supervision": {name: list(targets) for name, targets in experiment.supervision.items()},
            **source.identity,
        },
        training_identity=as_typed(asdict(augmentation)) if augmentation.does_something else {},
        encoder_identity={
            "configuration": as_typed(experiment.config["encoder"]),
            "partitions": dict(experiment.layout.sizes),
            "checkpoints": digests_of_checkpoints(encoder.settings),
        },
        device=device,
        memory_format=torch.channels_last_3d if trainer.channels_last else torch.contiguous_format,
        chunk_size=_chunk_size(trainer) if source.size else None,
    )


def _num_observed(fitted: FittedTargets, names: Sequence[str]) -> list[int]:
    """Return how many training subjects have each group of targets that the same subjects have."""
    groups = {
        tuple(fitted.normalizer.normalise(fitted.raw[subject], name) is not None for subject in fitted.training)
        for name in names
    }
    return sorted(sum(group) for group in groups)


def _chunk_size(trainer: TrainerSettings) -> int:
    """Return how many volumes fit into memory in float32, as those of the run do in its precision."""
    return max(1, trainer.batch_size // (1 if trainer.precision == "fp32" else 2))


class _LoadedLater:
    """Batches of a split that is loaded when they are needed, which cached references do not."""

    def __init__(self, load: Callable[[], Data], split: Split) -> None:
        self._load, self._split = load, split

    @property
    def loader(self) -> EpochLoader:
        data = self._load()
        loader = {"train": data.train, "val": data.val, "test": data.test}[self._split]
        assert loader is not None, f"the {self._split} split is empty"
        return loader

    @property
    def steps_per_epoch(self) -> int:
        return self.loader.steps_per_epoch

    def epoch(self, epoch: int, first_step: int = 0) -> Iterable[Batch]:
        return self.loader.epoch(epoch, first_step)


def references_of(
    cohort: ReferenceCohort | None, experiment: Experiment, evaluation: FinalEvaluation, compute: Compute
) -> References:
    """Return the R2 of the references of a cohort on the judged splits, with intervals.

    Args:
        cohort: result of `reference_cohort`.
        experiment: the configuration of a run.
        evaluation: evaluation of the run, which has the targets of its splits.
        compute: what to compute if the cache lacks it.
    """
    if cohort is None:
        return {}
    found = find_references(cohort, ReferenceStore(experiment.output_dir), compute)
    described: dict[str, dict[str, dict[str, Estimate]]] = {}
    for split, judged in evaluation.splits.items():
        for kind, readings in found.items():
            if split in readings.values:
                for name, value in _r2(readings, split, judged.record, experiment).items():
                    described.setdefault(split, {}).setdefault(name, {})[kind] = value
    return described


def _r2(readings: Readings, split: str, record: SplitRecord, experiment: Experiment) -> dict[str, Estimate]:
    """Return target or partition -> R2, as the metric ``r2`` computes it of the predictions of a run.

    Partitions of which the reference reads only some targets have no mean.
    """
    read = readings.values[split]
    table = np.array([read[subject] for subject in record.subject_id], dtype=np.float64)
    arrays = {name: array for name, array in record.arrays.items() if not name.startswith("predictions.")}
    supervision: dict[str, list[str]] = {}
    incomplete = []
    for partition, names in experiment.supervision.items():
        own = [name for name in names if name in readings.targets]
        if not own:
            continue
        supervision[partition] = own
        if len(own) < len(names):
            incomplete.append(partition)
        columns = [list(names).index(name) for name in own]
        arrays |= {f"{kind}.{partition}": record.arrays[f"{kind}.{partition}"][:, columns] for kind in _TRUTH}
        arrays[f"predictions.{partition}"] = table[:, [readings.targets.index(name) for name in own]]
    metric = TargetR2(MetricContext(experiment.layout, (), (), supervision))
    found = estimate([metric], replace(record, arrays=arrays, training=None))
    named = {key.removeprefix("sem/").removesuffix("_r2"): value for key, value in found.estimates.items()}
    return {name: value for name, value in named.items() if name not in incomplete}


def ceiling_reader(
    cohort: ReferenceCohort | None, experiment: Experiment, compute: Compute = "none"
) -> CeilingReader | None:
    """Return the reader of the ceiling of a run's cohort, a frozen probe; None if it is not cached.

    Args:
        cohort: result of `reference_cohort`, on whose device the reader is.
        experiment: the configuration of a run.
        compute: what to compute if the cache lacks it; a ceiling is not cheap.
    """
    if cohort is None:
        return None
    store = ReferenceStore(experiment.output_dir)
    if compute == "all":
        find_references(cohort, store, compute, ["ceiling"])
    with torch.random.fork_rng([cohort.device] if cohort.device.type == "cuda" else []):  # building draws weights
        return cached_ceiling(cohort, store)
