"""Metrics: a whole split -> named numbers.

A metric is constructed with a `MetricContext` by code and its tunables by configuration. It sees a split in two stages:
`Metric.observe` reduces each batch, on its device, to arrays of one row per subject; `Metric.compute` turns the record
of the whole split, on the CPU and in double precision, into numbers. A metric keeps no state between the two: whoever
records the split (`menvae.evaluation.metrics`) keeps the rows, gathers them over ranks and removes repeated subjects.
So a metric is right for any batch size and any number of ranks, as long as each row depends on its own subject only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from menvae.latent import LatentLayout
from menvae.types import Batch, ModelOutput

Floats = NDArray[np.float64]
Direction = Literal["higher", "lower"]

OF_BATCHES = frozenset({"inputs", "reconstruction"})
"""What `Metric.observe` may read; a record does not hold it."""

NEEDS: Mapping[str, str] = {
    "inputs": "batch.inputs, in `observe`",
    "reconstruction": "output.reconstruction, in `observe`",
    "mean": "posterior means [N, Z]",
    "logvar": "log variances of the posterior [N, Z]",
    "targets": "z-scored targets [N, F] of each partition",
    "observed": "1 where a target was observed, else 0 [N, F], of each partition",
    "predictions": "predicted z-scores [N, F] of each partition that has a head",
    "errors": "mean squared error of the reconstruction [N] from each of the z of `ERRORS`",
    "labels": "class indices [N], -1 where not known",
    "classes": "predicted class indices [N]",
}
"""What a metric may need."""

ERRORS: Mapping[str, str] = {
    "mu": "the posterior mean",
    "sampled": "a sample of the posterior",
    "shuffled": "the posterior mean of the subject before",
    "mean_z": "the mean over the training subjects",
    "z0": "zero",
}
"""The z from which subjects are decoded."""


@dataclass(frozen=True)
class SplitRecord:
    """A whole split after one pass, sorted by subject, in double precision.

    Attributes:
        subject_id: N identifiers.
        arrays: name -> [N, ...]: those of `NEEDS`, called ``<kind>.<name>`` where a kind has several (``targets.vol``,
            ``errors.mean_z``), NaN where a value could not be computed; ``available`` [N, C], 1 for the channels that a
            subject has, only where not all have all; and what metrics observed.
    """

    subject_id: tuple[str, ...]
    arrays: Mapping[str, Floats]

    @classmethod
    def joined(cls, pieces: Iterable[tuple[Sequence[str], Mapping[str, Floats]]]) -> SplitRecord:
        """Join the pieces that ranks recorded; of a subject that appears twice the first row counts.

        Args:
            pieces: (identifiers of n subjects, name -> [n, ...]), all with the same names.
        """
        given = list(pieces)
        subjects = [subject for names, _ in given for subject in names]
        first = {subject: index for index, subject in reversed(list(enumerate(subjects)))}
        order = [first[subject] for subject in sorted(first)]
        arrays = {name: np.concatenate([rows[name] for _, rows in given])[order] for name in given[0][1]}
        return cls(tuple(sorted(first)), arrays)

    @property
    def gives(self) -> frozenset[str]:
        """The kinds of arrays that are here."""
        return frozenset(name.split(".", 1)[0] for name in self.arrays)

    def by_partition(self, kind: str) -> dict[str, Floats]:
        """Return the arrays called ``<kind>.<partition>`` by partition, or ``errors.<z>`` by z."""
        return {name.split(".", 1)[1]: array for name, array in self.arrays.items() if name.startswith(kind + ".")}


@dataclass(frozen=True)
class MetricContext:
    """What a metric is made from.

    Attributes:
        layout: the partitions of z.
        channels: names of the modalities or columns.
        size: (D, H, W) in voxels; nothing for rows of a table.
        supervision: partition -> names of its targets.
        labelled: whether subjects may have classes.
    """

    layout: LatentLayout
    channels: tuple[str, ...]
    size: tuple[int, ...] = ()
    supervision: Mapping[str, Sequence[str]] = field(default_factory=dict)
    labelled: bool = False


class Metric:
    """One figure of a split, or one for each partition, target, channel or pair of partitions.

    Attributes:
        direction: which values are better; None where that depends.
        unit: of all values: ``dB``, ``nats``, ``dimensions``; empty for a number without one.
        range: least and largest possible value, both included.
        needs: what it reads, of `NEEDS`; it is left out where the run does not give all of it.
        min_subjects: of smaller splits every value is None.
        absent: why a value may be missing, as the gates table says it.
    """

    direction: ClassVar[Direction | None]
    unit: ClassVar[str] = ""
    range: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    needs: ClassVar[frozenset[str]]
    min_subjects: ClassVar[int] = 1
    absent: ClassVar[str] = "the run does not give what it is computed from"

    def __init__(self, context: MetricContext) -> None:
        """Args: context: of the run."""
        self.context = context

    def names(self) -> list[str]:
        """Return the keys of all values that it may give in this context; none where it does not apply."""
        raise NotImplementedError

    def observe(self, batch: Batch, output: ModelOutput) -> dict[str, Tensor]:
        """Reduce a batch, under ``no_grad``, to arrays of one row per subject [B, ...], which the record will hold.

        Inputs and outputs may be in half precision. What is not available of a subject may hold any value.
        """
        return {}

    def compute(self, record: SplitRecord) -> dict[str, float | None]:
        """Return {key: value} of a split of at least ``min_subjects`` subjects; None for what it cannot give."""
        raise NotImplementedError


def measure(metrics: Iterable[Metric], record: SplitRecord) -> dict[str, float | None]:
    """Return the values of all metrics whose needs a record meets, sorted by key.

    Args:
        metrics: of the context in which the split was recorded.
        record: of the whole split.
    """
    values: dict[str, float | None] = {}
    for metric in metrics:
        if metric.needs - OF_BATCHES <= record.gives:
            few = len(record.subject_id) < metric.min_subjects
            values |= dict.fromkeys(metric.names()) if few else metric.compute(record)
    return dict(sorted(values.items()))
