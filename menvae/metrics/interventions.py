"""What a frozen reader sees change when one partition of z is moved to that of another patient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from menvae.metrics import Direction, Findings, Floats, Means, Metric, SplitRecord, When
from menvae.metrics.means import at_all_rows, mean_of_some
from menvae.metrics.r2 import fewest_in_a_mean
from menvae.registry import register
from menvae.statistics.bootstrap import MIN_PATIENTS, bootstrap_intervals_of_means, too_few_patients
from menvae.statistics.estimate import Estimate

LARGEST_RATIO = 100.0
"""Ratios above this count as this: no reader resolves them, and the change of the other features may be 0."""
_CONSTANT = 1e-12
"""Variance of z-scores below which a change of the targets does not vary."""
NO_READER = "no model that reads the targets from images is cached; menvae-evaluate run=<run> references=true trains it"
SEVERAL_RANKS = "skipped with several ranks; menvae-evaluate run=<run> references=true computes them"
ONE_PATIENT = "all subjects are of one patient"


@register("metric", "interventions")
class Interventions(Metric):
    """Change of a partition's own features, relative to others: ``intervention/<partition>_ratio``, and its R2.

    z_S of every subject is replaced by that of another patient, the decoded image is read by a frozen model, and the
    read z-scores are compared with those of the unchanged decoding. With D(f, S) the root mean square of that change in
    feature f, the ratio is the root mean square of D(f, S) over the features of S, divided by the largest D(f, S) of a
    feature of another supervised partition. It is limited to `LARGEST_RATIO`, and 0 if the own features do not change.

    Two images of which a feature is the same may still be read differently. The variance of this noise in a change is
    at most 2 Var(e), if e is the error of the reader in real images and is independent in two images; it is smaller in
    images that share all but one partition. The interval therefore reaches from the lower end of the ratio whose
    numerator alone is reduced by the noise, D^2 - 2 Var(e), to the upper end of the one whose denominator alone is. A
    reader too poor to judge a claim thus leaves it undecided.

    ``intervention/<partition>_r2``: R2 of the change read in the own features, with the change of the targets from one
    patient to the other as truth, averaged over the features that enough patients and their other ones have, as the R2
    of predictions is (`menvae.metrics.r2`). It is 1 if the features become those of the other patient, and about 0 if
    the decoder does not read the partition.
    """

    direction: ClassVar[Direction | None] = "higher"
    range = (-np.inf, LARGEST_RATIO)
    needs = frozenset({"moved", "asked", "read", "targets", "observed"})
    min_subjects = 2
    absent = NO_READER
    when: ClassVar[When] = "final"

    def names(self) -> list[str]:
        """Two keys per supervised partition; without another one, it has no ratio. None for rows of a table."""
        supervised = [name for name, targets in self.context.supervision.items() if targets and self.context.size]
        ratios = [f"intervention/{name}_ratio" for name in supervised if len(supervised) > 1]
        return ratios + [f"intervention/{name}_r2" for name in supervised]

    def meaning(self, key: str) -> str:
        """Name the partition."""
        name, _, kind = key.removeprefix("intervention/").rpartition("_")
        if kind == "r2":
            return f"R² of the change read in the features of {name} when {name} is moved to that of another patient."
        return f"Change of the features of {name} when {name} is moved, divided by that of the most changed other one."

    def reason(self, key: str, record: SplitRecord) -> str:
        """Return why a value is missing, although there is a reader."""
        name, _, kind = key.removeprefix("intervention/").rpartition("_")
        pairs = _Pairs.of(record)
        if kind == "ratio" or not pairs.usable.any():
            return "no decoded image can be read"
        every = [feature for names in self.context.supervision.values() for feature in names]
        known = dict(zip(every, pairs.num_patients, strict=True))
        rare = [
            f"{feature} is observed in {known[feature]}"
            for feature in self.context.supervision[name]
            if known[feature] < pairs.fewest
        ]
        return "; ".join([f"half of its features must vary in {pairs.fewest} pairs of patients", *rare])

    def compute(self, record: SplitRecord) -> dict[str, float | None]:
        """Return the values without intervals."""
        found = at_all_rows(self.means(record))
        return {key: found[key] for key in self.names()}

    def means(self, record: SplitRecord) -> Means:
        """Return squared changes and errors; the values also contain the bounds of the ratios."""
        columns = _columns(record, self.context.supervision)
        sizes = np.cumsum([values.shape[1] for values in columns.values()])[:-1]
        counted = _Pairs.of(record).counted

        def values(means: Floats) -> dict[str, Floats]:
            read = _Read.at(dict(zip(columns, np.split(means, sizes, axis=1), strict=True)), self.context.supervision)
            return read.values(counted)

        return Means(np.concatenate(list(columns.values()), axis=1), values, self._rests_on(record))

    def _rests_on(self, record: SplitRecord) -> dict[str, NDArray[np.bool_]]:
        """Return key of an R2 -> rows [N] with the change of one of the features that count in its mean."""
        pairs, supervision = _Pairs.of(record), self.context.supervision
        return {
            f"intervention/{name}_r2": np.any((pairs.known & pairs.counted)[:, columns], axis=1)
            for name, columns in _own_columns(supervision).items()
        }

    def findings(self, record: SplitRecord) -> Findings:
        """Return the values; the intervals of ratios contain the noise of the reader."""
        means, values = self.means(record), self.compute(record)
        found = bootstrap_intervals_of_means(means.values, means.rows, record.patient_id)
        patients = np.array(record.patient_id)
        for key, rows in means.rests_on.items():
            found[key] = replace(found[key], n=len(set(patients[rows])))
        return Findings({key: self._estimate(key, value, found, record) for key, value in values.items()})

    def _estimate(self, key: str, value: float | None, found: Mapping[str, Estimate], record: SplitRecord) -> Estimate:
        own = found[key]
        if value is None:
            return Estimate(None, None, None, own.n, self.reason(key, record))
        if own.n < MIN_PATIENTS:
            return Estimate(value, None, None, own.n, too_few_patients(own.n))
        if not key.endswith("_ratio"):
            return replace(own, value=value)
        least, most = found[f"{key}/least"], found[f"{key}/most"]
        # a bound that is the same in all resamples, such as the limit, has no interval
        ends = [least.value if least.low is None else least.low, most.value if most.high is None else most.high]
        low, high = (value if end is None else end for end in ends)
        return Estimate(value, max(0.0, min(low, value)), min(LARGEST_RATIO, max(high, value)), own.n)


@dataclass(frozen=True)
class InterventionTable:
    """Changes read on a split, as data.

    Attributes:
        partitions: the P partitions that were moved.
        targets: the F targets that were read.
        changes: root mean square of the change of each target, in z-scores [P, F].
        noise: largest root mean square of a change that the errors of the reader alone may cause [F].
        reader_r2: R2 of the reader on the images of the split [F]; NaN where it is undefined.
    """

    partitions: tuple[str, ...]
    targets: tuple[str, ...]
    changes: Floats
    noise: Floats
    reader_r2: Floats


def intervention_table(record: SplitRecord, supervision: Mapping[str, Sequence[str]]) -> InterventionTable | None:
    """Return what was read on a split; None if there was no reader, or not two patients.

    Args:
        record: record of a split.
        supervision: partition -> names of its targets.
    """
    if not Interventions.needs <= record.gives:
        return None
    means = {name: values.mean(axis=0, keepdims=True) for name, values in _columns(record, supervision).items()}
    read = _Read.at(means, supervision)
    targets = tuple(name for names in supervision.values() for name in names)
    changes = np.sqrt(np.concatenate(list(read.squares.values())))
    return InterventionTable(tuple(read.squares), targets, changes, np.sqrt(read.noise[0]), read.reader_r2[0])


@dataclass(frozen=True)
class _Pairs:
    """The pairs of patients of a split of which a change can be read and is known.

    Attributes:
        usable: rows of which all decoded images can be read [N].
        known: those of them with the change of a target [N, F].
        num_patients: number of patients with the change of each target [F].
        fewest: number of them that a target needs, to count in the mean of its partition.
    """

    usable: NDArray[np.bool_]
    known: NDArray[np.bool_]
    num_patients: tuple[int, ...]
    fewest: int

    @classmethod
    def of(cls, record: SplitRecord) -> _Pairs:
        moved = np.concatenate(list(record.by_partition("moved").values()), axis=1)
        usable: NDArray[np.bool_] = np.isfinite(moved).all(axis=1)
        known = np.isfinite(record.arrays["asked"]) & usable[:, None]
        patients = np.array(record.patient_id)
        counts = tuple(len(set(patients[rows])) for rows in known.T)
        return cls(usable, known, counts, fewest_in_a_mean(len(set(record.patient_id))))

    @property
    def counted(self) -> NDArray[np.bool_]:
        """Whether enough patients have the change of a target [F]."""
        return np.array(self.num_patients) >= self.fewest


def _own_columns(supervision: Mapping[str, Sequence[str]]) -> dict[str, slice]:
    """Return supervised partition -> columns of its targets."""
    ends = np.cumsum([len(names) for names in supervision.values()]).tolist()
    found = zip(supervision.items(), ends, strict=True)
    return {name: slice(end - len(names), end) for (name, names), end in found if names}


def _columns(record: SplitRecord, supervision: Mapping[str, Sequence[str]]) -> dict[str, Floats]:
    """Return finite columns [N, ...] of whose means all values are functions; 0 where something is not known."""
    moved, asked = record.by_partition("moved"), record.arrays["asked"]
    truth = np.stack(list(record.by_target(supervision).values()), axis=1)
    error = record.arrays["read"] - truth
    has_truth = np.isfinite(error)
    pairs = _Pairs.of(record)
    usable, has_change = pairs.usable, pairs.known
    columns = {"usable": usable[:, None], "has_truth": has_truth, "has_change": has_change}
    for name, values, known in (
        ("error", error, has_truth),
        ("error_squared", error**2, has_truth),
        ("truth", truth, has_truth),
        ("truth_squared", truth**2, has_truth),
        ("asked", asked, has_change),
        ("asked_squared", asked**2, has_change),
    ):
        columns[name] = np.where(known, values, 0.0)
    for name, values in moved.items():
        columns[f"moved.{name}"] = np.where(usable[:, None], values**2, 0.0)
        columns[f"missed.{name}"] = np.where(has_change, (values - asked) ** 2, 0.0)
    return {name: values.astype(np.float64) for name, values in columns.items()}


@dataclass(frozen=True)
class _Read:
    """Functions of the means of R resamples.

    Attributes:
        own: supervised partition -> columns of its targets.
        squares: partition -> mean squared change of each target when it is moved [R, F].
        agreement: partition -> R2 of the change of each target, with the change of the targets as truth [R, F].
        noise: twice the variance of the reader's errors [R, F].
        reader_r2: R2 of the reader [R, F].
    """

    own: Mapping[str, slice]
    squares: Mapping[str, Floats]
    agreement: Mapping[str, Floats]
    noise: Floats
    reader_r2: Floats

    @classmethod
    def at(cls, means: Mapping[str, Floats], supervision: Mapping[str, Sequence[str]]) -> _Read:
        with np.errstate(divide="ignore", invalid="ignore"):
            known = {
                name: means[name] / means["has_truth"] for name in ("error", "error_squared", "truth", "truth_squared")
            }
            change = {name: means[name] / means["has_change"] for name in ("asked", "asked_squared")}
            moved = {name.removeprefix("moved."): means[name] for name in means if name.startswith("moved.")}
            squares = {name: values / means["usable"] for name, values in moved.items()}
            spread = change["asked_squared"] - change["asked"] ** 2
            spread = np.where(spread > _CONSTANT, spread, np.nan)
            agreement = {name: 1.0 - means[f"missed.{name}"] / means["has_change"] / spread for name in moved}
            noise = 2.0 * (known["error_squared"] - known["error"] ** 2)
            reader_r2 = 1.0 - known["error_squared"] / (known["truth_squared"] - known["truth"] ** 2)
        return cls(_own_columns(supervision), squares, agreement, np.maximum(noise, 0.0), reader_r2)

    def values(self, counted: NDArray[np.bool_]) -> dict[str, Floats]:
        """Return key -> values [R]; for every ratio also its least and most with regard to the noise.

        Args:
            counted: whether a target counts in the mean R2 of its partition [F].
        """
        found: dict[str, Floats] = {}
        for name, columns in self.own.items():
            r2s = np.where(counted, self.agreement[name], np.nan)[:, columns].T
            found[f"intervention/{name}_r2"] = mean_of_some(list(r2s), 0.5 * len(r2s))
            foreign = np.ones(self.noise.shape[1], dtype=bool)
            foreign[columns] = False
            if foreign.any():
                found |= self._ratios(f"intervention/{name}_ratio", self.squares[name], columns, foreign)
        return found

    def _ratios(self, key: str, squares: Floats, columns: slice, foreign: NDArray[np.bool_]) -> dict[str, Floats]:
        noise = np.where(np.isfinite(self.noise), self.noise, np.inf)  # an unknown noise decides nothing
        reduced = np.maximum(squares - noise, 0.0)
        own, least_own = squares[:, columns].mean(axis=1), reduced[:, columns].mean(axis=1)
        other, least_other = squares[:, foreign].max(axis=1), reduced[:, foreign].max(axis=1)
        pairs = {key: (own, other), f"{key}/least": (least_own, other), f"{key}/most": (own, least_other)}
        return {name: _limited_ratio(*pair) for name, pair in pairs.items()}


def _limited_ratio(top: Floats, bottom: Floats) -> Floats:
    """Return the root of a ratio of squares, at most `LARGEST_RATIO`; 0 if the numerator is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(top == 0.0, 0.0, np.sqrt(top / bottom))
    return np.minimum(ratio, LARGEST_RATIO)
