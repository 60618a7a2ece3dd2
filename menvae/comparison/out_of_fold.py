"""Pooled predictions of the folds of a configuration: each subject judged by the model that has not seen it.

The test split of a fold holds the subjects that its run was neither trained on nor chosen by, and the folds together
test every subject once. ``per_subject.csv`` of each run has their errors and classes, and their targets and predictions
before the z-score, which each fold has of its own. From these, metrics that are functions of means over subjects are
computed over all subjects at once, by the code that computes them for a split. Latents are not pooled: those of
different models have nothing in common.

Each repetition, such as a seed, judges every subject once. The value of a configuration is the mean over its
repetitions; its interval is that of this mean over patients, so that what differs between patients does not average out
over seeds.
"""

from __future__ import annotations

import csv
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from menvae.comparison.differences import with_false_discovery_rate
from menvae.comparison.pareto import Objective
from menvae.comparison.replicates import FOLD, NUM_FOLDS, Replicates, is_fold
from menvae.comparison.results import Cohort, Comparison, Configuration, Difference, OutOfFold, Summary
from menvae.comparison.swept_keys import ABSENT, natural, setting
from menvae.comparison.tracked_runs import RunStore, TrackedRun, listed
from menvae.comparison.words import shortened
from menvae.latent import LatentLayout
from menvae.metrics import Floats, Means, Metric, MetricContext, SplitRecord, build_metrics
from menvae.metrics.means import at_all_rows
from menvae.runs.reading import PER_SUBJECT
from menvae.statistics.bootstrap import (
    MIN_PATIENTS,
    bootstrap_intervals_of_means,
    bootstrap_tests_of_means,
    too_few_patients,
)
from menvae.statistics.estimate import Estimate

MOST_UNITS: Final = 1000
"""With more patients, such as the rows of a table, as many random groups of them are resampled instead."""
NUM_TEST_REPLICATES: Final = 5000
"""Resamples behind a p-value, which has to be small to pass among many tests."""
_ERRORS: Final = ("errors", "final_errors", "tumour_errors")
_LEARNT: Final = ("targets", "predictions")
_CLASSES: Final = ("labels", "classes")
_WITHOUT: Final = "without_"


def with_out_of_fold(comparison: Comparison, store: RunStore) -> Comparison:
    """Return a comparison with the pooled predictions of configurations whose runs are folds.

    Only the configurations that tables show, and the baselines, are pooled: reading the files of each and resampling
    its patients takes about as long as everything else.

    Args:
        comparison: the comparison.
        store: store with the files of the runs.
    """
    notes: list[str] = []
    shown, num = frozenset(one.number for one in shortened(comparison).rows), len(comparison.rows)
    if len(shown) < num:
        notes.append(f"Predictions are pooled over folds only of the {len(shown)} of {num:,} configurations in tables.")
    cohorts = tuple(_with_pooled(cohort, comparison, shown, store, notes) for cohort in comparison.cohorts)
    return replace(comparison, cohorts=cohorts, notes=(*comparison.notes, *notes))


def _with_pooled(
    cohort: Cohort, comparison: Comparison, shown: Collection[int], store: RunStore, notes: list[str]
) -> Cohort:
    if not any(one.number in shown for one in cohort.configurations):
        return cohort
    in_cohort = {setting(run, FOLD) for run in cohort.runs if is_fold(run)}
    baseline = _read(cohort.baseline, in_cohort, comparison.replicates, store, notes)
    known = set(baseline.judged)
    found: dict[int, OutOfFold] = {}
    for one in cohort.configurations:
        is_baseline = one.number == cohort.baseline.number
        if not is_baseline and one.number not in shown:
            continue
        folds = baseline if is_baseline else _read(one, in_cohort, comparison.replicates, store, notes)
        known |= folds.judged
        if not folds.repetitions:
            continue
        differences = {} if is_baseline else _differences(folds.repetitions, baseline.repetitions, comparison.gates)
        found[one.number] = replace(_pooled(folds.repetitions), differences=differences, missing=folds.missing)
    adjusted = with_false_discovery_rate({number: one.differences for number, one in found.items()})
    pooled = {number: replace(one, differences=adjusted[number], num_known=len(known)) for number, one in found.items()}
    return replace(cohort, out_of_fold=pooled)


# --------------------------------------------------------------------------------------------------------------------
# Files
# --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class JudgedFold:
    """The test split of a fold, as in its ``per_subject.csv``.

    Attributes:
        subjects: identifiers of its N subjects.
        patients: patient of each.
        columns: name -> values [N] of errors, classes, targets and predictions; NaN where there is none.
    """

    subjects: tuple[str, ...]
    patients: tuple[str, ...]
    columns: Mapping[str, Floats]


@dataclass(frozen=True)
class _Repetition:
    """All subjects that the folds of one repetition have judged, and the metrics that can be computed of them."""

    record: SplitRecord
    metrics: Sequence[Metric]


def read_fold(path: Path) -> JudgedFold | None:
    """Read the test split of a ``per_subject.csv``; None if the file is missing or damaged, or has no test split."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            places = {name: place for place, name in enumerate(next(reader, []))}
            rows = [row for row in reader if row[places["split"]] == "test"]
        cells = list(zip(*rows, strict=True))
        subjects, patients = (cells[places[name]] for name in ("subject_id", "patient_id"))
        columns = {
            name: np.array([float(cell or "nan") for cell in cells[place]], dtype=np.float64)
            for name, place in places.items()
            if name in _CLASSES or name.partition(".")[0] in (*_ERRORS, *_LEARNT)
        }
    except (OSError, KeyError, IndexError, ValueError, csv.Error):
        return None
    return JudgedFold(subjects, patients, columns) if rows else None


@dataclass(frozen=True)
class _Folds:
    """What the folds of a configuration have judged.

    Attributes:
        repetitions: repetition -> its subjects, the same for all; empty if they have none in common.
        judged: subjects that any of its runs has judged.
        missing: repetition -> the folds that it lacks; without those that lack none.
    """

    repetitions: Mapping[str, _Repetition]
    judged: frozenset[str]
    missing: Mapping[str, tuple[str, ...]]


def _read(
    one: Configuration, in_cohort: Collection[str], replicates: Replicates, store: RunStore, notes: list[str]
) -> _Folds:
    """Read the folds of a configuration; ``in_cohort`` are those of all runs with the same data."""
    folds: dict[str, list[JudgedFold]] = {}
    places: dict[str, set[str]] = {}
    unread = []
    runs = list(filter(is_fold, one.runs))
    for run in runs:
        path = store.artifact(run, PER_SUBJECT)
        fold = None if path is None else read_fold(path)
        if fold is None:
            unread.append(run.name)
        else:
            folds.setdefault(replicates.repetition(run), []).append(fold)
            places.setdefault(replicates.repetition(run), set()).add(setting(run, FOLD))
    if unread:
        notes.append(f"Not pooled over folds, without a readable test split in {PER_SUBJECT}: {listed(unread)}.")
    found = {name: _joined(of_repetition) for name, of_repetition in folds.items()}
    everyone = [set(repetition.record.subject_id) for repetition in found.values()]
    common: set[str] = set.intersection(*everyone) if everyone else set()
    if everyone and not common:
        notes.append(f"Not pooled over folds: no subject is tested by every repetition of #{one.number}.")
    expected = _expected(runs, in_cohort)
    missing = {name: tuple(fold for fold in expected if fold not in of) for name, of in places.items()}
    return _Folds(
        {name: _of_subjects(repetition, common) for name, repetition in found.items()} if common else {},
        frozenset().union(*everyone),
        {name: lacking for name, lacking in missing.items() if lacking},
    )


def _expected(runs: Sequence[TrackedRun], in_cohort: Collection[str]) -> list[str]:
    """Return all folds: as many as configured or, with one for each patient, those of any run."""
    configured = setting(runs[0], NUM_FOLDS) if runs else ABSENT
    every = {str(fold) for fold in range(int(configured))} if configured.isdigit() else set(in_cohort)
    return sorted(every, key=natural)


def _joined(folds: Sequence[JudgedFold]) -> _Repetition:
    """Return all subjects of some folds, with targets and predictions on one scale."""
    names = [name for name in folds[0].columns if all(name in fold.columns for fold in folds)]
    columns = {name: np.concatenate([fold.columns[name] for fold in folds]) for name in names}
    supervision = _supervision(names)
    arrays = {name: values for name, values in columns.items() if name.partition(".")[0] not in _LEARNT}
    for partition, targets in supervision.items():
        true, predicted = (
            np.stack([columns[f"{kind}.{partition}.{target}"] for target in targets], axis=1) for kind in _LEARNT
        )
        arrays |= _on_one_scale(partition, true, predicted)
    subjects = tuple(name for fold in folds for name in fold.subjects)
    patients = tuple(name for fold in folds for name in fold.patients)
    record = SplitRecord.joined([SplitRecord(subjects, arrays, patients)])
    of_partition = tuple((partition, tuple(targets)) for partition, targets in supervision.items())
    return _Repetition(record, _metrics(tuple(record.arrays), of_partition))


def _supervision(columns: Sequence[str]) -> dict[str, list[str]]:
    """Return partition -> its targets, of the columns ``targets.<partition>.<target>`` that are predicted too."""
    found: dict[str, list[str]] = {}
    for column in columns:
        kind, _, rest = column.partition(".")
        partition, _, target = rest.partition(".")
        if kind == "targets" and target and f"predictions.{rest}" in columns:
            found.setdefault(partition, []).append(target)
    return found


def _on_one_scale(partition: str, true: Floats, predicted: Floats) -> dict[str, Floats]:
    """Return targets and predictions [N, F] with one z-score for all folds, that of all targets."""
    seen = np.isfinite(true) & np.isfinite(predicted)
    counts = np.maximum(seen.sum(axis=0), 1)
    centre = np.where(seen, true, 0.0).sum(axis=0) / counts
    scale = np.sqrt(np.where(seen, (true - centre) ** 2, 0.0).sum(axis=0) / counts)
    scale = np.where(scale > 1e-12 * np.maximum(1.0, np.abs(centre)), scale, 1.0)
    return {
        f"targets.{partition}": np.where(seen, (true - centre) / scale, 0.0),
        f"predictions.{partition}": np.where(seen, (predicted - centre) / scale, 0.0),
        f"observed.{partition}": seen.astype(np.float64),
    }


@lru_cache(maxsize=64)  # the runs of a sweep share a few
def _metrics(arrays: tuple[str, ...], supervision: tuple[tuple[str, tuple[str, ...]], ...]) -> tuple[Metric, ...]:
    """Return the metrics that can be computed without latents and images.

    Args:
        arrays: names of the arrays of a record.
        supervision: partitions with the names of their targets.
    """
    named = [name.split(".", 1) for name in arrays]
    gives = frozenset(kind for kind, *_ in named)
    errors = [rest[0] for kind, *rest in named if kind == "final_errors" and rest[0].startswith(_WITHOUT)]
    partitions = dict.fromkeys([*(name.removeprefix(_WITHOUT) for name in errors), *dict(supervision)])
    context = MetricContext(
        layout=LatentLayout(dict.fromkeys(partitions or ["z"], 1)),
        channels=(),
        size=(1, 1, 1) if "tumour_errors" in gives else (),
        supervision=dict(supervision),
        labelled="classes" in arrays,
    )
    return tuple(
        metric
        for metric in build_metrics({}, context)
        if metric.needs and metric.needs <= gives and type(metric).observe is Metric.observe
    )


def _of_subjects(repetition: _Repetition, subjects: Collection[str], keys: Collection[str] = ()) -> _Repetition:
    """Return some subjects of a repetition, and the metrics that compute any of some keys; without keys, all."""
    record = repetition.record
    index = np.array([row for row, name in enumerate(record.subject_id) if name in subjects], dtype=np.intp)
    metrics = [metric for metric in repetition.metrics if not keys or set(metric.names()) & set(keys)]
    return _Repetition(record if len(index) == len(record.subject_id) else record.rows(index), metrics)


# --------------------------------------------------------------------------------------------------------------------
# Statistics
# --------------------------------------------------------------------------------------------------------------------


def _pooled(repetitions: Mapping[str, _Repetition]) -> OutOfFold:
    """Return the metrics of a configuration: mean and deviation over the repetitions, interval over patients."""
    parts = {name: _means(repetition) for name, repetition in repetitions.items()}
    each = {name: at_all_rows(means) for name, means in parts.items()}
    patients = next(iter(repetitions.values())).record.patient_id
    units, mean = units_of(patients), _weighted([(1.0 / len(parts), means) for means in parts.values()])
    metrics: dict[str, Summary] = {}
    for key, estimate in bootstrap_intervals_of_means(mean.values, mean.rows, units).items():
        found = _of_enough(estimate, mean.rests_on.get(key), units)
        values = {name: of_repetition.get(key) for name, of_repetition in each.items()}
        known = [value for value in values.values() if value is not None]
        if not known:
            continue
        deviation = statistics.stdev(known) if len(known) > 1 else None
        metrics[key] = Summary(values, found.value, deviation, _interval(found))
    return OutOfFold(len(patients), len(set(patients)), metrics)


def _differences(
    one: Mapping[str, _Repetition], baseline: Mapping[str, _Repetition], gates: Sequence[Objective]
) -> dict[str, Difference]:
    """Return the differences in the metrics of gates, of the same subjects, over the shared repetitions."""
    shared = [name for name in one if name in baseline]
    if not shared:
        return {}
    ours, theirs = ([of_one[name] for name in shared] for of_one in (one, baseline))
    common = set(ours[0].record.subject_id) & set(theirs[0].record.subject_id)
    if not common:
        return {}
    keys = {gate.metric for gate in gates}
    ours, theirs = ([_of_subjects(each, common, keys) for each in side] for side in (ours, theirs))
    weight = 1.0 / len(shared)
    means = _weighted([*((weight, _means(each)) for each in ours), *((-weight, _means(each)) for each in theirs)])
    patients = ours[0].record.patient_id
    units = units_of(patients)
    tested = bootstrap_tests_of_means(means.values, means.rows, units, num_replicates=NUM_TEST_REPLICATES)
    differences = {}
    for gate in gates:
        if gate.metric in tested:
            estimate, p_value = tested[gate.metric]
            interval = _interval(_of_enough(estimate, means.rests_on.get(gate.metric), units))
            p_value = None if interval is None else p_value
            differences[gate.name] = Difference(len(shared), estimate.value, interval, p_value)
    return differences


def _means(repetition: _Repetition) -> Means:
    """Return all metrics of a repetition as functions of the same means."""
    record = repetition.record
    enough = [metric for metric in repetition.metrics if len(record.subject_id) >= metric.min_subjects]
    parts = [means for metric in enough if (means := metric.means(record)) is not None]
    rests_on = {key: rows for part in parts for key, rows in part.rests_on.items()}
    if not parts:
        return Means(np.zeros((len(record.subject_id), 1)), lambda means_RM: {})

    def values(means_RM: Floats) -> dict[str, Floats]:
        return {key: value for found in _separately(parts, means_RM) for key, value in found.items()}

    return Means(np.concatenate([part.rows for part in parts], axis=1), values, rests_on)


def _weighted(weighted: Sequence[tuple[float, Means]]) -> Means:
    """Return the weighted sum of metrics of the same subjects: of the keys that all have."""
    weights, parts = [weight for weight, _ in weighted], [means for _, means in weighted]

    def values(means_RM: Floats) -> dict[str, Floats]:
        found = _separately(parts, means_RM)
        keys = [key for key in found[0] if all(key in other for other in found)]
        return {key: _sum([weight * of[key] for weight, of in zip(weights, found, strict=True)]) for key in keys}

    rests_on: dict[str, NDArray[np.bool_]] = {}
    for part in parts:
        for key, rows in part.rests_on.items():
            rests_on[key] = rests_on[key] & rows if key in rests_on else rows
    return Means(np.concatenate([part.rows for part in parts], axis=1), values, rests_on)


def _sum(terms: Sequence[Floats]) -> Floats:
    """Return the sum of arrays [R]; 0 where they cancel but for rounding, as they do for equal predictions."""
    total, size = np.sum(terms, axis=0), np.abs(terms).sum(axis=0)
    return np.where(np.abs(total) <= 1e-12 * size, 0.0, total)


def _separately(parts: Sequence[Means], means_RM: Floats) -> list[Mapping[str, Floats]]:
    """Return the values of each part, of means [R, M] that are side by side."""
    pieces = np.split(means_RM, np.cumsum([part.rows.shape[1] for part in parts])[:-1], axis=1)
    return [part.values(piece) for part, piece in zip(parts, pieces, strict=True)]


def _of_enough(found: Estimate, rows: NDArray[np.bool_] | None, units: Sequence[int]) -> Estimate:
    """Return an estimate, without its interval if the rows that it rests on are of too few patients."""
    count = MIN_PATIENTS if rows is None else len(np.unique(np.array(units)[rows]))
    if found.value is None or count >= MIN_PATIENTS:
        return found
    return Estimate(found.value, None, None, count, too_few_patients(count))


def units_of(patients: Sequence[str]) -> list[int]:
    """Return a number for each row: that of its patient or, of more than `MOST_UNITS`, of a random group of patients.

    >>> units_of(["b", "a", "b"])
    [0, 1, 0]
    """
    numbers = {patient: number for number, patient in enumerate(dict.fromkeys(patients))}
    if len(numbers) <= MOST_UNITS:
        return [numbers[patient] for patient in patients]
    groups = (np.random.default_rng(0).permutation(len(numbers)) % MOST_UNITS).tolist()
    return [groups[numbers[patient]] for patient in patients]


def _interval(found: Estimate) -> tuple[float, float] | None:
    return None if found.low is None or found.high is None else (found.low, found.high)
