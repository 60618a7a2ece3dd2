"""Where the volumes of patients come from: masks, runs or a table; and whose images an encoder has seen."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from menvae.configuration import path_of
from menvae.console.progress import progress_bar
from menvae.data.cache.prepare import prepare
from menvae.data.cache.trajectories import region_volume_mm3
from menvae.data.digests import digest_of
from menvae.data.source import DataSource
from menvae.data.tables.frame import read_frame
from menvae.data.tables.nulls import Nulls, as_number
from menvae.encoding.encode import encode
from menvae.errors import UserError, about, nearest
from menvae.forecasting.decoded import Encoded
from menvae.forecasting.patients import SameDay, VisitRow, patients_of
from menvae.growth import Visits
from menvae.registry import Bound
from menvae.runs.finished import FinishedRun
from menvae.statistics.gompertz import Gompertz

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger(__name__)

OF_CURVES = ("vol_et", "vol_ncr")
"""Targets whose sum is the volume of the growth curves of phantoms."""
_ML = 1000.0
_NOT_EVOLVING = frozenset({"vol", "residual"})
"""Partitions that no growth model evolves: the volume follows from the forecast, the residual stays."""


@dataclass(frozen=True)
class VisitRules:
    """How rows become patients.

    Attributes:
        volume: targets whose volumes are added up.
        smallest_mm3: volumes below count as this one.
        same_day: what to do with two visits of a patient on one day.
    """

    volume: tuple[str, ...]
    smallest_mm3: float
    same_day: SameDay


@dataclass(frozen=True)
class Part:
    """Patients whose volumes were read in one way, such as by one encoder.

    Attributes:
        patients: all of them.
        folds: numbers of patients that are held out together and forecast; None: everyone, one at a time.
        encoded: what they were read from, by one encoder; None: by none or several.
    """

    patients: Sequence[Visits]
    folds: Sequence[Sequence[int]] | None = None
    encoded: Encoded | None = None


@dataclass(frozen=True)
class Volumes:
    """Log volumes of patients from one source.

    Attributes:
        name: such as ``masks``.
        parts: patients; those who are forecast differ between the parts.
        warnings: first lines of a report, such as whose images were seen.
        curves: patient -> true growth curve, where it is known.
        digest: hash of all rows.
    """

    name: str
    parts: Sequence[Part]
    warnings: Sequence[str] = ()
    curves: Mapping[str, Gompertz] = field(default_factory=dict)
    digest: str = ""


@dataclass(frozen=True, kw_only=True)
class TableSource:
    """Keys of ``source=table``.

    Attributes:
        path: a CSV or Parquet file with a row per visit.
        patient: column of patients.
        days: column of days, on any clock that the visits of a patient share.
        volume: column of volumes.
        unit: of the volumes.
    """

    name: Literal["table"]
    path: str
    patient: str = "patient_id"
    days: str = "days"
    volume: str = "volume_mm3"
    unit: Literal["mm3", "ml"] = "mm3"


def volumes_of_table(source: TableSource, rules: VisitRules) -> Volumes:
    """Read a table.

    Raises:
        UserError: the file or a row is invalid; the sentence names the line.
    """
    path = path_of(source.path, "source.path")
    with about("source.path"):
        table, place = read_frame(path, [source.days, source.volume], [source.patient], Nulls())
    factor = _ML if source.unit == "ml" else 1.0

    rows = []
    columns = (table[column].tolist() for column in (source.patient, source.days, source.volume))
    with about(f"source.path: '{path}'"):
        for number, (patient, days, volume) in enumerate(zip(*columns, strict=True)):
            name = "" if patient is None or patient != patient else str(patient).strip()
            if not name:
                raise UserError(f"{place(number)}: no patient in column '{source.patient}'")
            day = _number(days, f"{place(number)}: column '{source.days}'")
            rows.append(VisitRow(name, day, factor * _number(volume, f"{place(number)}: column '{source.volume}'")))
        patients = _patients(rows, place, rules)
    return Volumes("table", [Part(patients)], digest=digest_of([list(row) for row in rows]))


def volumes_of_masks(data: Bound, rules: VisitRules, cache: Path, num_workers: int | None) -> Volumes:
    """Prepare a cohort, and take the volumes of its masks at native resolution.

    Raises:
        UserError: the data are invalid, or no visit has a date.
    """
    built: DataSource = data()
    if built.cohort is None:
        raise UserError(
            f"data: '{data.part.name}' has no masks to measure; choose phantom_growth or brats, or source=table"
        )
    _check_targets(rules.volume, built.targets, "the masks of this cohort have")
    cohort = prepare(built.cohort, cache, num_workers, progress_bar)
    dated = [subject for subject in cohort.subjects if subject.days is not None]
    if len(dated) < len(cohort.subjects):
        _log.warning(
            "%d of %d visits have no date and are left out", len(cohort.subjects) - len(dated), len(cohort.subjects)
        )
    rows = [
        VisitRow(
            subject.patient_id,
            float(subject.days or 0.0),
            sum(region_volume_mm3(subject.native_features, name) for name in rules.volume),
        )
        for subject in dated
    ]
    if not rows:
        raise UserError("data: no visit has a date; give data.dates, a CSV of subject_id and days or date")
    patients = _patients(rows, _visit_in([subject.subject_id for subject in dated]), rules)
    curves = built.cohort.curves if set(rules.volume) == set(OF_CURVES) else {}
    return Volumes("masks", [Part(patients)], curves=curves, digest=digest_of([cohort.data_hash, list(rules.volume)]))


def volumes_of_runs(
    runs: Sequence[FinishedRun],
    rules: VisitRules,
    data: Mapping[str, Any],
    hold_out: Literal["encoder", "patient"],
    num_workers: int | None = None,
) -> list[Volumes]:
    """Encode a cohort with finished runs, and take the volumes that they predict and those of the masks.

    Runs that hold out the same patients are an ensemble; runs that hold out others are folds. A fold's encoder reads
    all patients, the growth model is fitted to those that the encoder may have seen, and the others are forecast. So
    nothing of a held-out patient reaches the encoder or the growth model, but the volumes of the others are read better
    than his.

    Args:
        runs: folds, ensembles or one run.
        rules: how rows become patients.
        data: keys of another cohort, as for `menvae.encode`.
        num_workers: processes that prepare visits of another cohort; None: one per core.
        hold_out: ``encoder``: the test patients of each run; ``patient``: everyone, one at a time, by one encoder.

    Returns:
        Predicted volumes, which are judged by the masks where there are masks; then those of the masks, if every visit
        has one.

    Raises:
        UserError: runs do not fit each other, or do not predict a volume.
    """
    if hold_out == "encoder" and data:
        raise UserError("hold_out: 'encoder' is not allowed with data.*, a cohort without splits; use hold_out=patient")
    folds = _folds(runs) if hold_out == "encoder" else {frozenset(): list(runs)}
    parts: list[Part] = []
    of_masks: list[Part] = []
    leaks: list[str] = []
    num_forecast = 0
    digests: list[str] = []
    for members in folds.values():
        table = encode(
            members,
            fusion="ensemble" if len(members) > 1 else None,
            data=data,
            num_workers=num_workers,
            show=progress_bar,
        )
        table = table[table["days"].notna()].reset_index(drop=True)
        if table.empty:
            raise UserError(f"run: no visit of '{members[0].name}' has a date; give data.dates")
        evolving = _evolving(table, members)
        predicted = _rows_of(table, rules, "predicted", members, evolving)
        measured = _rows_of(table, rules, "measured", members, evolving) if _have_masks(table, rules) else None
        place = _visit_in(table["subject"].tolist())
        patients = _patients(predicted, place, rules)
        if measured is not None:
            masks = _patients(measured, place, rules)
            patients = [replace(one, truth=other.log_volume) for one, other in zip(patients, masks, strict=True)]
            of_masks.append(Part(masks))
        _check_same_cohort(runs[0], members[0], parts, patients)
        seen, held_out = _seen_by(members, table, data), list(range(len(patients)))
        if hold_out == "encoder":
            tested = set(table.loc[table["split"] == "test", "patient"])
            held_out = [number for number, one in enumerate(patients) if one.patient in tested]
        leaks += [patients[number].patient for number in held_out if patients[number].patient in seen]
        num_forecast += len(held_out)
        encoded = Encoded(members[0], data, table, rules.volume, rules.smallest_mm3, evolving)
        folds_of_part = [held_out] if hold_out == "encoder" else None
        parts.append(Part(patients, folds_of_part, encoded if len(members) == 1 else None))
        digests.append(digest_of([list(row) for row in (*predicted, *(measured or ()))]))
    warnings = []
    if leaks:
        warnings.append(
            f"The encoder has seen images of {len(leaks)} of the {num_forecast} patients that are forecast, such as "
            f"'{leaks[0]}'; of new patients it knows less. Runs of data.fold=0,1,... and hold_out=encoder avoid that."
        )
    if hold_out == "encoder":
        warnings.append(
            "Growth models are fitted, and intervals set, on patients whose images the encoder has seen; those that "
            "are forecast are read with larger errors, and intervals may be too narrow."
        )
    name = ", ".join(run.name for run in runs) if len(runs) < 4 else f"{len(runs)} runs"
    found = [Volumes(f"predicted by {name}", parts, warnings, digest=digest_of(digests))]
    if len(of_masks) == len(parts):
        of_masks = [replace(one, folds=part.folds) for one, part in zip(of_masks, parts, strict=True)]
        found.append(Volumes("masks", of_masks, digest=digest_of([*digests, "masks"])))
    return found


def _folds(runs: Sequence[FinishedRun]) -> dict[frozenset[str], list[FinishedRun]]:
    """Return the runs by the visits that they hold out."""
    found: dict[frozenset[str], list[FinishedRun]] = {}
    for run in runs:
        test = frozenset(subject for subject, split in run.splits.items() if split == "test")
        if not test:
            raise UserError(
                f"run: '{run.name}' has no test split, so that its encoder has seen everyone; hold_out=patient "
                "forecasts all the same, and says so"
            )
        found.setdefault(test, []).append(run)
    for first, members in found.items():
        for second, others in found.items():
            if first is not second and (both := sorted(first & second)):
                raise UserError(
                    f"run: '{members[0].name}' and '{others[0].name}' both hold out '{both[0]}', but not the same "
                    "visits; give folds of one data.num_folds and data.split_seed"
                )
    return found


def _check_same_cohort(
    first: FinishedRun, other: FinishedRun, parts: Sequence[Part], patients: Sequence[Visits]
) -> None:
    if parts and [(one.patient, *one.days) for one in patients] != [
        (one.patient, *one.days) for one in parts[0].patients
    ]:
        raise UserError(f"run: '{first.name}' and '{other.name}' have other visits; folds must be of one cohort")


def _seen_by(runs: Sequence[FinishedRun], table: pd.DataFrame, data: Mapping[str, Any]) -> set[str]:
    """Return the patients of a table whose images trained or chose one of the runs, or one that it started from.

    Equal names in another cohort are equal patients, unless cohorts are generated, of which each has the same names.
    """
    if data and runs[0].experiment.source.location is None:
        return set()
    patient_of = dict(zip(table["subject"], table["patient"], strict=True))
    seen: set[str] = set()
    for run in runs:
        seen |= {patient_of[subject] for subject in run.visits_seen if subject in patient_of}
    return seen


def _rows_of(
    table: pd.DataFrame, rules: VisitRules, kind: str, runs: Sequence[FinishedRun], evolving: Sequence[str]
) -> list[VisitRow]:
    """Return the rows of predicted or measured volumes, with the variance of the logarithm of the former.

    The variance is that of a sum of independent volumes.
    """
    present = [column.removeprefix("predicted.") for column in table.columns if column.startswith("predicted.")]
    _check_targets(rules.volume, [name for name in present if "." not in name], f"run '{runs[0].name}' predicts")
    volumes = np.nansum([table[f"{kind}.{name}"].to_numpy(float) for name in rules.volume], axis=0)
    variances = np.zeros(len(table))
    if kind == "predicted":
        squares = np.nansum([table[f"predicted.{name}.sd"].to_numpy(float) ** 2 for name in rules.volume], axis=0)
        variances = squares / np.maximum(volumes, rules.smallest_mm3) ** 2
    latents = table[list(evolving)].to_numpy(float).tolist() if evolving else [None] * len(table)
    columns = (table["patient"].astype(str), table["days"], volumes.clip(min=0.0).tolist(), variances.tolist(), latents)
    return [VisitRow(*row) for row in zip(*columns, strict=True)]


def _evolving(table: pd.DataFrame, runs: Sequence[FinishedRun]) -> list[str]:
    """Return the columns of mean latents that evolve with time; none for an ensemble, whose latents differ."""
    prefixes = tuple(f"mean.{name}." for name in runs[0].model.layout if name not in _NOT_EVOLVING)
    return [column for column in table.columns if prefixes and column.startswith(prefixes)]


def _have_masks(table: pd.DataFrame, rules: VisitRules) -> bool:
    """Return whether every visit has a mask: a region without voxels is missing, but not all of them."""
    columns = [column for column in table.columns if column.startswith("measured.vol_")]
    there = table[columns].notna().any(axis=1)
    if there.any() and not there.all():
        _log.warning(
            "%d of %d visits have no mask: forecasts are judged by predicted volumes", (~there).sum(), len(there)
        )
    return bool(there.all())


def _check_targets(wanted: Iterable[str], known: Iterable[str], words: str) -> None:
    for name in wanted:
        if name not in known:
            raise UserError(f"volume: {words} no '{name}'; {nearest(name, list(known))}")


def _visit_in(names: Sequence[str]) -> Callable[[int], str]:
    return lambda row: f"visit '{names[row]}'"


def _patients(rows: Sequence[VisitRow], place: Callable[[int], str], rules: VisitRules) -> list[Visits]:
    return patients_of(rows, place, smallest_mm3=rules.smallest_mm3, same_day=rules.same_day)


def _number(value: object, where: str) -> float:
    if value is None or value != value:
        raise UserError(f"{where} is empty")
    if not isinstance(value, str | int | float | np.number):
        raise UserError(
            f"{where} has '{value}', which is not a number; count days from any day, such as the first visit"
        )
    number = as_number(value) if isinstance(value, str) else float(value)
    if number is None or not math.isfinite(number):
        raise UserError(f"{where} has '{value}', which is not a finite number")
    return number
