"""Files of an evaluation: ``evaluation.json`` and ``per_subject.csv``, of a training run or of ``menvae-evaluate``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from menvae.data.source import Data, DataSource, FittedTargets
from menvae.data.targets.declaration import Target
from menvae.data.targets.normalizer import TargetNormalizer
from menvae.data.targets.physical import denormalised, physical, physical_unit
from menvae.evaluation.final import FinalEvaluation, JudgedSplit
from menvae.evaluation.gates import JudgedGates
from menvae.files import write_json, write_table
from menvae.metrics import Floats, SplitRecord
from menvae.metrics.interventions import intervention_table
from menvae.runs.environment import code_hash
from menvae.runs.reading import EVALUATION, PER_SUBJECT
from menvae.runs.references import References

_MM3_PER_ML = 1000.0
_ERRORS = ("errors", "final_errors", "tumour_errors")


def describe_evaluation(
    evaluation: FinalEvaluation,
    gates: JudgedGates,
    data: Data,
    supervision: Mapping[str, Sequence[str]],
    run: str,
    checkpoint: str,
    epoch: int,
    references: References | None = None,
    cohort: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the content of ``evaluation.json``.

    Args:
        evaluation: the evaluation.
        gates: its gates.
        data: data of the run.
        supervision: partition -> names of its targets.
        run: name of the run.
        checkpoint: ``best`` or ``last``.
        epoch: epoch of the checkpoint, from 1.
        references: R2 of references on the same splits, if there are any.
        cohort: description of the judged cohort, if it is not that of the run.
    """

    def split(name: str, judged: JudgedSplit) -> dict[str, Any]:
        counts = {"subjects": len(judged.record.subject_id), "patients": len(set(judged.record.patient_id))}
        metrics = {key: asdict(estimate) for key, estimate in judged.estimates.items()}
        possible = data.volumes is not None and any(supervision.values())
        interventions = {"interventions": _interventions(judged, supervision)} if possible else {}
        verdicts = gates.splits[name].as_dict()
        return {**counts, **verdicts, "metrics": metrics, **judged.findings.tables, **interventions}

    return {
        "run": run,
        "checkpoint": checkpoint,
        "epoch": epoch,
        "data_hash": data.data_hash,
        "targets_hash": data.targets_hash,
        **({"cohort": dict(cohort)} if cohort else {}),
        "code": code_hash(),
        "passed": gates.passed,
        "splits": {name: split(name, judged) for name, judged in evaluation.splits.items()},
        **({"references": _as_values(references)} if references else {}),
    }


def _as_values(references: References) -> dict[str, Any]:
    return {
        split: {name: {kind: asdict(r2) for kind, r2 in kinds.items()} for name, kinds in names.items()}
        for split, names in references.items()
    }


def _interventions(judged: JudgedSplit, supervision: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return changes by moved partition and target, errors of the reader, and ratios; or why there are none."""
    table = intervention_table(judged.record, supervision)
    if table is None:
        return {"reason": judged.unmoved}
    changes = zip(table.partitions, table.changes.tolist(), strict=True)
    errors = zip(table.targets, table.reader_r2.tolist(), table.noise.tolist(), strict=True)
    ratios = {name: judged.estimates.get(f"intervention/{name}_ratio") for name in supervision}
    return {
        "reader": {name: {"r2": _finite(r2), "noise": _finite(noise)} for name, r2, noise in errors},
        "changes": {name: dict(zip(table.targets, map(_finite, row), strict=True)) for name, row in changes},
        "ratios": {name: asdict(ratio) for name, ratio in ratios.items() if ratio is not None},
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def write_evaluation(
    folder: Path,
    described: Mapping[str, Any],
    evaluation: FinalEvaluation,
    data: Data,
    source: DataSource,
    supervision: Mapping[str, Sequence[str]],
) -> None:
    """Write ``evaluation.json`` and ``per_subject.csv``.

    Args:
        folder: folder of the files.
        described: content of ``evaluation.json``.
        evaluation: the evaluation.
        data: data of the run.
        source: source of the data.
        supervision: partition -> names of its targets.
    """
    write_json(folder / EVALUATION, described)
    sides = _sides_mm(data, source)
    parts = [
        _columns(name, judged.record, data.targets, source.targets, supervision, sides)
        for name, judged in evaluation.splits.items()
    ]
    names = list(dict.fromkeys(name for part in parts for name in part))
    rows = [
        [part[name][row] if name in part else "" for name in names]
        for part in parts
        for row in range(len(part["split"]))
    ]
    write_table(folder / PER_SUBJECT, names, rows)


def _columns(
    split: str,
    record: SplitRecord,
    targets: FittedTargets | None,
    declared: Mapping[str, Target],
    supervision: Mapping[str, Sequence[str]],
    sides: Sequence[float],
) -> dict[str, Sequence[Any]]:
    """Return the columns of a split: name -> one cell per subject."""
    columns: dict[str, Sequence[Any]] = {
        "subject_id": record.subject_id,
        "patient_id": record.patient_id,
        "split": [split] * len(record.subject_id),
    }
    for kind in _ERRORS:
        columns |= {f"{kind}.{name}": _cells(values) for name, values in record.by_partition(kind).items()}
    columns |= {name: _cells(record.arrays[name]) for name in ("labels", "classes") if name in record.arrays}
    predictions = record.by_partition("predictions")
    z_scores = {
        name: predictions[partition][:, column]
        for partition, names in supervision.items()
        if partition in predictions
        for column, name in enumerate(names)
    }
    if targets is None or not z_scores:
        return columns
    columns |= dict(_learnt_columns(record, targets.normalizer, supervision))
    for name, values in denormalised(targets.normalizer, z_scores).items():
        raw = (targets.raw[subject][name] for subject in record.subject_id)
        true = physical(declared[name], np.array([np.nan if value is None else value for value in raw], np.float64))
        columns |= dict(_target_columns(name, declared[name], true, physical(declared[name], values), sides))
    return columns


def _learnt_columns(
    record: SplitRecord, normalizer: TargetNormalizer, supervision: Mapping[str, Sequence[str]]
) -> Iterator[tuple[str, list[str]]]:
    """Yield targets and predictions as they are learnt but for the z-score, such as residuals of ln(mm³ + 1).

    Each fold of a cross-validation has a z-score of its own; these values can be pooled over folds.
    """
    predictions = record.by_partition("predictions")
    predicted = {name: targets for name, targets in supervision.items() if name in predictions}
    true = record.by_target(predicted)
    for partition, targets in predicted.items():
        for column, name in enumerate(targets):
            statistics = normalizer.statistics[name]
            mean = np.nan if statistics.mean is None else statistics.mean
            for kind, z_scores in (("targets", true[name]), ("predictions", predictions[partition][:, column])):
                yield f"{kind}.{partition}.{name}", _cells(z_scores * statistics.sd + mean)


def _target_columns(
    name: str, target: Target, true: Floats, predicted: Floats, sides: Sequence[float]
) -> Iterator[tuple[str, list[str]]]:
    """Yield ground truth, prediction and their difference: volumes in mL and %, places in the box in mm."""
    unit = physical_unit(target)
    scale = 1.0
    if unit == "mm³":
        unit, scale = "mL", 1.0 / _MM3_PER_ML
    elif target.axis is not None and target.axis < len(sides):
        unit, scale = "mm", sides[target.axis]
    ending = f"_{unit}" if unit in ("mL", "mm", "mm²") else ""
    yield f"{name}.true{ending}", _cells(true * scale)
    yield f"{name}.predicted{ending}", _cells(predicted * scale)
    yield f"{name}.residual{ending}", _cells((predicted - true) * scale)
    if unit in ("mL", "mm²"):
        with np.errstate(divide="ignore", invalid="ignore"):
            yield f"{name}.residual_%", _cells(np.where(true > 0.0, 100.0 * (predicted - true) / true, np.nan))


def _cells(values: Floats) -> list[str]:
    """Return numbers that read back the same; empty where there is none."""
    return [repr(float(value)) if np.isfinite(value) else "" for value in values]


def _sides_mm(data: Data, source: DataSource) -> list[float]:
    """Return the lengths of the box along D, H, W in mm; empty for rows of a table."""
    if data.volumes is None:
        return []
    return [size * spacing for size, spacing in zip(source.size, data.volumes.cohort.spacing_mm, strict=True)]
