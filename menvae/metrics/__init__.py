"""Metrics: a whole split -> named numbers.

Code passes a `MetricContext` to the constructor; the configuration passes the tunables. A metric sees a split in two
stages: `Metric.observe` reduces each batch, on its device, to arrays with one row per subject; `Metric.compute` turns
the record of the whole split, on the CPU and in double precision, into numbers. A metric keeps no state between the
two: `menvae.evaluation.metrics` stores the rows, gathers them over ranks and removes repeated subjects. A metric is
thus correct for any batch size and number of ranks, provided that each row depends only on its own subject.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from menvae.errors import UserError
from menvae.latent import LatentLayout
from menvae.registry import bind, known, lookup
from menvae.statistics.estimate import Estimate
from menvae.types import Batch, ModelOutput

Floats = NDArray[np.float64]
Direction = Literal["higher", "lower"]
When = Literal["epoch", "final"]
Interval = Literal["bootstrap", "jackknife"]
LeavingOut = Callable[[NDArray[np.intp]], Mapping[str, "float | None"]]
"""Indices of rows [B] to leave out -> {key: value} of the others."""

OF_BATCHES = frozenset({"inputs", "reconstruction"})
"""Needs that only `Metric.observe` may read; a record does not contain them."""

NEEDS: Mapping[str, str] = {
    "inputs": "batch.inputs, in `observe`",
    "reconstruction": "output.reconstruction, in `observe`",
    "mean": "posterior means [N, Z]",
    "logvar": "log variances of the posterior [N, Z]",
    "targets": "z-scored targets [N, F] of each partition",
    "observed": "1 where a target was observed, 0 elsewhere [N, F], of each partition",
    "predictions": "predicted z-scores [N, F] of each partition that has a head",
    "spread": "mean squared difference of predictions from draws of q(z|x) and from its mean [N, F], of each partition",
    "errors": "mean squared error of the reconstruction [N] from each z of `ERRORS`",
    "final_errors": "mean squared error [N] of each entry of `FINAL_ERRORS`",
    "tumour_errors": "squared error [N], averaged over the tumour, from z and without each partition; NaN without one",
    "read": "z-scores [N, F] that a frozen model reads of all targets, in the order of the supervision, from images",
    "moved": "change [N, F] of what it reads from decoded images when a partition becomes that of another patient",
    "asked": "targets [N, F] of that other patient less the own ones; NaN where one was not observed",
    "factors": "generative factors [N, F] of each group of the source, if it knows them",
    "training": "`SplitRecord.training`, the record of the training subjects",
    "labels": "class indices [N], -1 where unknown",
    "classes": "predicted class indices [N]",
}
"""Values that `Metric.needs` may contain."""

ERRORS: Mapping[str, str] = {
    "mu": "the posterior mean",
    "sampled": "a sample of the posterior",
    "shuffled": "the posterior mean of the preceding subject of another patient",
    "mean_z": "the mean over the training subjects",
    "z0": "zero",
}
"""The latents z from which subjects are decoded."""

FINAL_ERRORS: Mapping[str, str] = {
    "mean_image": "the mean training image instead of the reconstruction",
    "without_<partition>": "the posterior mean with one partition replaced by its mean over the training subjects",
}
"""What subjects are compared with in the evaluation after training, besides `ERRORS`."""


@dataclass(frozen=True)
class SplitRecord:
    """Record of a whole split, sorted by subject, in double precision.

    Attributes:
        subject_id: N identifiers.
        arrays: name -> [N, ...]: those of `NEEDS`, named ``<kind>.<name>`` if a kind has several (``targets.vol``,
            ``errors.mean_z``), NaN where a value could not be computed; ``available`` [N, C], 1 for the channels that a
            subject has, if batches declare it; and the arrays that metrics observed.
        patient_id: patient of each row; by default, each subject is a patient.
        training: latents, targets and predictions of the training subjects; None during training.
    """

    subject_id: tuple[str, ...]
    arrays: Mapping[str, Floats]
    patient_id: tuple[str, ...] = ()
    training: SplitRecord | None = None

    def __post_init__(self) -> None:
        """Take each subject for a patient if patients are not given."""
        if not self.patient_id:
            object.__setattr__(self, "patient_id", self.subject_id)

    @classmethod
    def joined(cls, pieces: Iterable[SplitRecord]) -> SplitRecord:
        """Join the records of all ranks; if a subject appears twice, its first row is used.

        Args:
            pieces: records with the same arrays.
        """
        given = list(pieces)
        subjects = [subject for piece in given for subject in piece.subject_id]
        patients = [patient for piece in given for patient in piece.patient_id]
        arrays = {name: np.concatenate([piece.arrays[name] for piece in given]) for name in given[0].arrays}
        first = {subject: index for index, subject in reversed(list(enumerate(subjects)))}
        order = np.array([first[subject] for subject in sorted(first)], dtype=np.intp)
        return cls(tuple(subjects), arrays, tuple(patients)).rows(order)

    def rows(self, index: NDArray[np.intp]) -> SplitRecord:
        """Return the record of the rows at ``index``, which may repeat."""
        subjects, patients = (tuple(names[row] for row in index) for names in (self.subject_id, self.patient_id))
        arrays = {name: array[index] for name, array in self.arrays.items()}
        return SplitRecord(subjects, arrays, patients, self.training)

    @property
    def gives(self) -> frozenset[str]:
        """The kinds of arrays in the record, and ``training`` if it has the training subjects."""
        kinds = frozenset(name.split(".", 1)[0] for name in self.arrays)
        return kinds | {"training"} if self.training is not None else kinds

    def by_partition(self, kind: str) -> dict[str, Floats]:
        """Return the arrays called ``<kind>.<partition>`` by partition, or ``errors.<z>`` by z."""
        return {name.split(".", 1)[1]: array for name, array in self.arrays.items() if name.startswith(kind + ".")}

    def codes(self, layout: LatentLayout) -> dict[str, Floats]:
        """Return the posterior means by partition [N, P]."""
        return {name: self.arrays["mean"][:, slice(*layout.bounds(name))] for name in layout}

    def by_target(self, supervision: Mapping[str, Sequence[str]]) -> dict[str, Floats]:
        """Return target -> z-scores [N], NaN where not observed.

        Args:
            supervision: partition -> names of its targets.
        """
        targets, observed = self.by_partition("targets"), self.by_partition("observed")
        return {
            name: np.where(observed[partition][:, column] > 0, targets[partition][:, column], np.nan)
            for partition, names in supervision.items()
            for column, name in enumerate(names)
        }


@dataclass(frozen=True)
class Means:
    """Values of a metric as functions of means over rows, from which intervals need no loop over resamples.

    Attributes:
        rows: what is averaged, finite [N, M].
        values: means [R, M] -> {key: values [R]}, row by row; NaN where a value is undefined.
        rests_on: key -> rows [N] that the value rests on; all rows for other keys.
    """

    rows: Floats
    values: Callable[[Floats], Mapping[str, Floats]]
    rests_on: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)


@dataclass(frozen=True)
class Findings:
    """Values of metrics of a split with intervals, and the tables behind them.

    Attributes:
        estimates: key -> value.
        tables: name -> rows, each a mapping from column to cell; ``evaluation.json`` holds them under these names.
    """

    estimates: Mapping[str, Estimate]
    tables: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)


@dataclass(frozen=True)
class MetricContext:
    """What a metric knows about its run.

    Attributes:
        layout: partitions of z.
        channels: names of the modalities or columns.
        size: (D, H, W) in voxels; empty for the rows of a table.
        supervision: partition -> names of its targets.
        labelled: whether subjects may have classes, and the model predicts them.
        factors: group -> names of the generative factors that the source knows; usually empty.
    """

    layout: LatentLayout
    channels: tuple[str, ...]
    size: tuple[int, ...] = ()
    supervision: Mapping[str, Sequence[str]] = field(default_factory=dict)
    labelled: bool = False
    factors: Mapping[str, Sequence[str]] = field(default_factory=dict)


class Metric(ABC):
    """One value per split, or one per partition, target, channel or pair of partitions.

    Attributes:
        direction: whether higher or lower values are better; None if neither.
        unit: unit of all values: ``dB``, ``nats``, ``dimensions``; empty if dimensionless.
        range: smallest and largest possible value, inclusive.
        needs: entries of `NEEDS` that it reads; it is skipped if the run lacks any of them.
        min_subjects: every value is None for splits with fewer subjects.
        absent: why a value may be missing, as shown in the gates table.
        when: ``final``: computed only of the best weights after training, because it takes more than 50 ms for 64
            subjects or says little of a single epoch; ``epoch``: by every validation too.
        interval: how the evaluation after training finds intervals: by the bootstrap over patients; by leaving patients
            out, for statistics of pairs of rows, which resampled and thus repeated rows would bias; None: not at all,
            because it would take too long. Metrics that return `means` always have bootstrap intervals.
    """

    direction: ClassVar[Direction | None]
    unit: ClassVar[str] = ""
    range: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    needs: ClassVar[frozenset[str]]
    min_subjects: ClassVar[int] = 1
    absent: ClassVar[str] = "the run lacks the data it needs"
    when: ClassVar[When] = "epoch"
    interval: ClassVar[Interval | None] = "bootstrap"

    def __init__(self, context: MetricContext) -> None:
        """Args: context: run context."""
        self.context = context

    @abstractmethod
    def names(self) -> list[str]:
        """Return the keys of all values that it may compute in this context; empty if it does not apply.

        Keys of different values must differ: a key that appears twice is refused with the configuration.
        """

    def meaning(self, key: str) -> str:
        """Return what a value measures, in one sentence for the table of gates; by default, from the class docstring.

        Args:
            key: one of `names`.
        """
        return (type(self).__doc__ or "").strip().split("\n", 1)[0].split(": ``", 1)[0].rstrip(".") + "."

    def reason(self, key: str, record: SplitRecord) -> str:
        """Return why a value of a split is missing, with numbers of subjects if they are the reason.

        Args:
            key: one of `names`.
            record: record of the whole split.
        """
        return self.absent

    def observe(self, batch: Batch, output: ModelOutput) -> dict[str, Tensor]:
        """Reduce a batch, under ``no_grad``, to arrays with one row per subject [B, ...] for the record.

        Inputs and outputs may be in half precision. Entries of unavailable channels may have any value.
        """
        return {}

    @abstractmethod
    def compute(self, record: SplitRecord) -> dict[str, float | None]:
        """Return {key: value} of a split of at least ``min_subjects`` subjects; None for undefined values."""

    def leaving_out(self, record: SplitRecord) -> LeavingOut:
        """Return a function that computes the values of a split without some rows, for the jackknife.

        Override it where the calls can share work.
        """
        everything = np.arange(len(record.subject_id))
        return lambda rows: self.compute(record.rows(np.delete(everything, rows)))

    def means(self, record: SplitRecord) -> Means | None:
        """Return all values as functions of means over the rows of a split, or None if they are no such functions.

        `menvae.metrics.means.MetricOfMeans` is the base of metrics that are.
        """
        return None

    def findings(self, record: SplitRecord) -> Findings | None:
        """Return all values with intervals of the metric's own, and tables; or None for those that `interval` names."""
        return None

    def to_linear(self, value: float) -> float:
        """Map a value, increasingly, to the scale on which the jackknife finds its normal interval."""
        return value

    def from_linear(self, value: float) -> float:
        """Invert `to_linear`, also for values out of `range`."""
        return value


def build_metrics(config: Mapping[str, Any], context: MetricContext) -> list[Metric]:
    """Build every registered metric that applies to a context.

    Args:
        config: ``metrics.*``: key -> configuration of a metric that replaces its defaults, or None to disable the
            metric of that name.
        context: run context.

    Returns:
        Metrics sorted by key. A metric with a required tunable is built only if configured.

    Raises:
        UserError: a metric does not exist, a value is not allowed, or two values have the same key.
    """
    parts = {name: lookup("metric", name) for name in known("metric")}
    wanted: dict[str, Metric] = {}
    for key, entry in config.items():
        if entry is None:
            lookup("metric", key, f"metrics.{key}")
        else:
            wanted[f"metrics.{key}"] = bind("metric", entry, f"metrics.{key}")(context)
    configured = {entry["name"] for entry in config.values() if entry is not None}
    for name, part in parts.items():
        complete = all(default is not ... for _, default in part.tunables.values())
        if complete and name not in configured and (name not in config or config[name] is not None):
            wanted.setdefault(name, part.factory(context))
    _check_keys(wanted)
    return [metric for _, metric in sorted(wanted.items()) if metric.names()]


def _check_keys(metrics: Mapping[str, Metric]) -> None:
    """Check that no two values have the same key, so that none overwrites another."""
    owners: dict[str, str] = {}
    for owner, metric in metrics.items():
        for key in metric.names():
            if owners.get(key) == owner:
                raise UserError(
                    f"metrics: {owner} has two values with the key '{key}', because names of partitions or targets "
                    "clash; rename a partition of model.partitions, or list each target of model.supervision once"
                )
            if key in owners:
                raise UserError(f"metrics: {owners[key]} and {owner} both compute '{key}'; set one of them to null")
            owners[key] = owner


def measure(metrics: Iterable[Metric], record: SplitRecord) -> dict[str, float | None]:
    """Return the values of all metrics whose needs the record meets, sorted by key.

    Args:
        metrics: metrics built for the context of the split.
        record: record of the whole split.
    """
    values: dict[str, float | None] = {}
    for metric in metrics:
        if is_met(metric, record):
            few = len(record.subject_id) < metric.min_subjects
            values |= dict.fromkeys(metric.names()) if few else metric.compute(record)
    return dict(sorted(values.items()))


def is_met(metric: Metric, record: SplitRecord) -> bool:
    """Return whether a record has everything that a metric needs."""
    return metric.needs - OF_BATCHES <= record.gives
