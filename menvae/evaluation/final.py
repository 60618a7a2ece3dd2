"""Evaluation of the best weights after training, and the data for pictures."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from menvae.data.source import Data, DataSource, FittedTargets
from menvae.data.targets.normalizer import TargetNormalizer
from menvae.evaluation.decoding import first_channel, precision_of
from menvae.evaluation.estimates import estimate
from menvae.evaluation.gates import GateTable, JudgedGates, evaluate_gates
from menvae.evaluation.interventions import swaps, with_interventions
from menvae.evaluation.metrics import MeanImage, Reference, SplitRecorder, latents_of_others
from menvae.gates import Target
from menvae.metrics import Findings, Floats, Metric, SplitRecord
from menvae.metrics.interventions import NO_READER, ONE_PATIENT, intervention_table
from menvae.metrics.leak import TABLE
from menvae.metrics.predictive import standardised_errors
from menvae.metrics.r2 import r2
from menvae.models import Model
from menvae.pictures import PhysicalTargets, PictureContext, Traversals, VolumeFacts
from menvae.references.reader import FeatureReader
from menvae.statistics.estimate import Estimate
from menvae.training.settings import TrainerSettings
from menvae.types import Batch, ModelOutput

TRAVERSAL_STEPS = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)
"""Positions along a latent direction, in standard deviations of the split."""
WALK_STEPS = tuple(step / 2.0 for step in range(-6, 7))
"""Positions of the animated traversals, which contain `TRAVERSAL_STEPS`."""

Outputs = Callable[[], Iterable[tuple[Batch, ModelOutput]]]
"""Returns the batches of a split with the model's outputs; it is called twice."""


@dataclass(frozen=True)
class JudgedSplit:
    """Evaluation of one split.

    Attributes:
        record: full record of its subjects.
        findings: all metrics, with intervals over patients, and their tables.
        unmoved: why there are no interventions; empty if there are.
    """

    record: SplitRecord
    findings: Findings
    unmoved: str = ""

    @property
    def estimates(self) -> Mapping[str, Estimate]:
        """All metrics, with intervals over patients."""
        return self.findings.estimates

    @property
    def metrics(self) -> dict[str, float | None]:
        """All metrics without intervals."""
        return {key: estimate.value for key, estimate in self.estimates.items()}


@dataclass(frozen=True)
class FinalEvaluation:
    """Evaluation of the best weights.

    Attributes:
        train: latents, targets and predictions of the training subjects.
        splits: the judged splits by name, in the order in which they were given; pictures show the first.
    """

    train: SplitRecord
    splits: Mapping[str, JudgedSplit]

    @property
    def val(self) -> SplitRecord:
        """Full record of the validation subjects."""
        return self.splits["val"].record

    @property
    def metrics(self) -> Mapping[str, float | None]:
        """All metrics of the validation split."""
        return self.splits["val"].metrics

    @property
    def shown(self) -> tuple[str, JudgedSplit]:
        """Name and evaluation of the first judged split."""
        return next(iter(self.splits.items()))


_ALONE = TrainerSettings()
"""Single precision and small batches, for models without a run."""


@torch.no_grad()
def evaluate_model(
    model: Model,
    train: Iterable[Batch],
    judged: Mapping[str, Outputs],
    metrics: Sequence[Metric],
    reader: FeatureReader | None = None,
    source: DataSource | None = None,
    trainer: TrainerSettings = _ALONE,
    no_reader: str = NO_READER,
) -> FinalEvaluation:
    """Evaluate a model in evaluation mode; call it on all ranks, each with its share of the batches.

    Args:
        model: model with the weights to evaluate.
        train: batches of the training split on the model's device, for the mean latent and the mean image.
        judged: name of a split -> its batches.
        metrics: metrics to compute.
        reader: reads the targets from images; None: interventions are not computed.
        source: source of the judged subjects, for their generative factors; None: unknown.
        trainer: precision and batch size of the run, in which everything is encoded, decoded and read.
        no_reader: why there is no reader.
    """
    reader = reader if any("moved" in metric.needs for metric in metrics) else None
    latents, mean_image = SplitRecorder(model), MeanImage()
    with precision_of(model, trainer):
        for batch in train:
            latents.record_predictions(batch, model.encode(batch.inputs, batch.available))
            mean_image.add(batch)
    train_record, image = latents.record(), mean_image.value()
    mean_z = torch.from_numpy(train_record.arrays["mean"].mean(axis=0)).float()

    def of(outputs: Outputs) -> JudgedSplit:
        of_split = SplitRecorder(model)
        for batch, output in outputs():
            of_split.record_latents(batch, output.posterior)
        recorder = SplitRecorder(model, metrics)
        recorder.compare_with(Reference(mean_z, image, latents_of_others(of_split.record()), reader))
        with precision_of(model, trainer):
            for batch, output in outputs():
                recorder.on_validation_batch(batch, output)
        record = replace(_with_factors(recorder.record(), source), training=train_record)
        if reader is not None:
            record = with_interventions(record, model, reader, trainer)
        unmoved = no_reader if reader is None else "" if "moved" in record.gives else ONE_PATIENT
        return JudgedSplit(record, estimate(metrics, record), unmoved)

    return FinalEvaluation(train_record, {name: of(outputs) for name, outputs in judged.items()})


def _with_factors(record: SplitRecord, source: DataSource | None) -> SplitRecord:
    """Return a record with the generative factors of its subjects, if the source knows them."""
    groups = {} if source is None else source.factor_groups
    if source is None or not groups:
        return record
    known = source.factors(record.subject_id)
    factors = {
        f"factors.{group}": np.array([[known[subject][name] for name in names] for subject in record.subject_id])
        for group, names in groups.items()
    }
    return replace(record, arrays={**record.arrays, **factors})


def judge(
    evaluation: FinalEvaluation,
    targets: Mapping[str, Target],
    metrics: Sequence[Metric],
    supervision: Mapping[str, Sequence[str]],
) -> JudgedGates:
    """Compare the metrics of all judged splits with the targets of the gates.

    Args:
        evaluation: the evaluation.
        targets: name of the gate -> metric and threshold.
        metrics: metrics that were computed.
        supervision: partition -> names of its targets.
    """

    def table(name: str, judged: JudgedSplit) -> GateTable:
        subjects, patients = len(judged.record.subject_id), len(set(judged.record.patient_id))
        of_moved = [key for metric in metrics if "moved" in metric.needs for key in metric.names()]
        unmoved = {key: Estimate(None, None, None, 0, judged.unmoved) for key in of_moved if judged.unmoved}
        return evaluate_gates({**unmoved, **judged.estimates}, targets, metrics, supervision, subjects, patients, name)

    return JudgedGates({name: table(name, judged) for name, judged in evaluation.splits.items()})


def results(
    model: Model,
    evaluation: FinalEvaluation,
    data: Data,
    units: Mapping[str, str],
    needs: Collection[str],
    trainer: TrainerSettings,
) -> PictureContext:
    """Return the context of pictures after training, except for what was logged during training.

    Args:
        model: model with the best weights.
        evaluation: evaluation of these weights.
        data: data of the run.
        units: target -> its unit.
        needs: fields that the pictures need; images are decoded for no other.
        trainer: precision and batch size of the run.
    """
    supervised = any(model.supervision.values())
    name, judged = evaluation.shown
    leaks = leak_matrices(model, judged.findings.tables.get(TABLE, ())) if supervised else None
    context = PictureContext(
        layout=model.layout,
        supervision=model.supervision,
        classes=data.classes,
        model=model,
        train=evaluation.train,
        val=judged.record,
        split=name,
        leaks=None if leaks is None else leaks[0],
        leaking=None if leaks is None else leaks[1],
        calibration=calibration(judged.record, model.supervision) or None,
        targets=physical_targets(model, evaluation, data.targets, units) if supervised and data.targets else None,
    )
    if data.volumes is None:
        return context
    steps = WALK_STEPS if "walks" in needs else TRAVERSAL_STEPS if "traversals" in needs else ()
    walks = Traversals(steps, traversals(model, judged.record.arrays["mean"], steps, trainer)) if steps else None
    return replace(
        context,
        volumes=VolumeFacts(data.volumes.modalities, data.volumes.cohort.spacing_mm),
        traversals=walks.at(TRAVERSAL_STEPS) if walks is not None and "traversals" in needs else None,
        walks=walks if "walks" in needs else None,
        swaps=swaps(model, judged.record, trainer) if "swaps" in needs else None,
        interventions=intervention_table(judged.record, model.supervision),
    )


def physical_targets(
    model: Model, evaluation: FinalEvaluation, targets: FittedTargets, units: Mapping[str, str]
) -> PhysicalTargets:
    """Return ground truth and predictions of the first judged split in physical units, with the R2 of both."""
    true, predicted = in_physical_units(evaluation.shown[1].record, targets.normalizer, model.supervision, targets.raw)
    return PhysicalTargets(true, predicted, units, {name: r2(true[name], predicted[name]) for name in true})


def calibration(record: SplitRecord, supervision: Mapping[str, Sequence[str]]) -> dict[str, Floats]:
    """Return partition -> standardised errors of its targets [N, F], NaN where unknown; empty without predictions."""
    found = standardised_errors(record, supervision)
    return {name: np.stack([each.predictive for each in of.values()], axis=1) for name, of in found.items()}


def leak_matrices(model: Model, table: Sequence[Mapping[str, Any]]) -> tuple[Floats, NDArray[np.bool_]]:
    """Return how well partitions predict targets, from a leak table (see `menvae.statistics.leaks`).

    Args:
        model: model of the run.
        table: rows of `menvae.metrics.leak`; empty if the split has too few patients.

    Returns:
        The R2 of the better probe [partitions, targets], NaN where undefined, and whether either probe finds a leak.
    """
    partitions = list(model.layout)
    targets = [name for names in model.supervision.values() for name in names]
    r2 = np.full((len(partitions), len(targets)), np.nan)
    leaking = np.zeros(r2.shape, dtype=np.bool_)
    for row in table:
        cell = partitions.index(row["source"]), targets.index(row["target"])
        r2[cell] = np.fmax(r2[cell], np.nan if row["r2"] is None else row["r2"])
        leaking[cell] |= row["significant"]
    return r2, leaking


def traversals(
    model: Model, means: Floats, steps: Sequence[float] = TRAVERSAL_STEPS, trainer: TrainerSettings = _ALONE
) -> NDArray[np.float32]:
    """Decode the mean latent, shifted along the first principal component of each partition.

    Args:
        model: model with the best weights.
        means: posterior means of a split [N, Z].
        steps: shifts in standard deviations of the split.
        trainer: precision and batch size of the run.

    Returns:
        First channel of each image [partitions, steps, D, H, W].
    """
    centre = means.mean(axis=0)
    rows = []
    for partition in model.layout:
        bounds = slice(*model.layout.bounds(partition))
        _, singular, directions = np.linalg.svd(means[:, bounds] - centre[bounds], full_matrices=False)
        deviation = singular[0] / np.sqrt(max(1, len(means) - 1))
        latents = np.tile(centre, (len(steps), 1))
        latents[:, bounds] += np.outer(steps, directions[0]) * deviation
        rows.append(first_channel(model, latents, trainer))
    return np.stack(rows)


def in_physical_units(
    record: SplitRecord,
    normalizer: TargetNormalizer,
    supervision: Mapping[str, Sequence[str]],
    raw_targets: Mapping[str, Mapping[str, float | None]],
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Return ground truth and predictions of each target in physical units.

    Args:
        record: record of a split.
        normalizer: normalizer of the targets.
        supervision: partition -> names of its targets.
        raw_targets: subject -> raw targets.

    Returns:
        Two mappings by target: ground truth [n] and predictions [n] of the subjects that have both.
    """
    predictions = record.by_partition("predictions")
    columns = {
        name: predictions[partition][:, column]
        for partition, names in supervision.items()
        for column, name in enumerate(names)
    }
    physical = [
        normalizer.to_physical({name: float(values[row]) for name, values in columns.items()})
        for row in range(len(record.subject_id))
    ]
    true, predicted = {}, {}
    for name in columns:
        pairs = [
            (raw_targets[subject][name], values[name])
            for subject, values in zip(record.subject_id, physical, strict=True)
        ]
        known = [(a, b) for a, b in pairs if a is not None and b is not None]
        true[name] = np.array([a for a, _ in known], dtype=np.float64)
        predicted[name] = np.array([b for _, b in known], dtype=np.float64)
    return true, predicted
