"""Terms: (batch, output) -> named unweighted scalars.

A term is constructed with a `TermContext` by code, and its tunables by configuration. Whether a scalar counts, and how
much, is not its business: weights and schedules belong to `menvae.objective`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

from torch import Tensor, nn

from menvae.latent import LatentLayout
from menvae.types import Batch, ModelOutput, Progress

Unit = Literal[
    "nats_per_subject",
    "nats_per_batch",
    "nats_per_dimension",
    "nats_per_voxel",
    "mean_squared_error",
    "squared_error_per_subject",
    "squared_error_per_batch",
    "dimensionless",
]
"""Unit of the scalars of a term. Where terms with different units are added, weights have to make up for it."""

UNITS: tuple[str, ...] = get_args(Unit)


@dataclass(frozen=True)
class TermContext:
    """What a term may know of its run.

    Attributes:
        layout: the partitions of z.
        num_input_values: C x D x H x W of one subject, or the number of columns.
        num_training_subjects: N.
    """

    layout: LatentLayout
    num_input_values: int
    num_training_subjects: int


class Term(nn.Module):
    """A term of an objective. State lives in buffers, so that checkpoints hold it; a term has no parameters.

    The attributes declare what the checks of an experiment and the advice before training need to know. A term sets
    them on the class, or in its constructor where they depend on its settings.

    Attributes:
        scalars: names of what `forward` returns and weights apply to.
        requires: what the model must provide (see `menvae.models.Model.provides`).
        batch_requires: which fields of a batch it reads that not every cohort has, such as ``mask``.
        unit: unit of the scalars, one of `UNITS`; ``dimensionless`` also where no other term has that unit.
        min_rows: smallest number of subjects, in the batch of all ranks or remembered, for which every scalar depends
            on the output of the model. With fewer the scalars stay finite, but at least one of them is constant.
        memory_size: number of subjects up to which the term adds those of earlier batches to the batch; 0: none.
        compares_visits: whether it depends on which subjects are visits of the same patient.
        limits_information: whether it draws the posterior to the prior, as a KL does, so that z holds less of an input.
        advised_weights: scalar -> (lowest, highest) weight that it was designed for; no entry: any weight.
        remedies: need -> override that meets it. A need is an entry of ``requires`` or ``batch_requires``, ``rows``
            (fewer than ``min_rows``), ``visits`` (batches without pairs of visits), or the unit that another term asks
            for. A key with a leading dot is a key of the term: ``{"mask": ".tumour_weight=1", "visits":
            "data.pairs=true"}``. For a need without a remedy users are advised to set the weights of the term to 0.
    """

    scalars: tuple[str, ...]
    requires: frozenset[str] = frozenset()
    batch_requires: frozenset[str] = frozenset()
    unit: Unit = "dimensionless"
    min_rows: int = 1
    memory_size: int = 0
    compares_visits: bool = False
    limits_information: bool = False
    advised_weights: Mapping[str, tuple[float, float]] = MappingProxyType({})
    remedies: Mapping[str, str] = MappingProxyType({})

    def remedy(self, need: str, path: str) -> str | None:
        """Return the override that meets a need, or None if the term declares none.

        Args:
            need: a key of `remedies`.
            path: where the term is in the configuration, such as ``loss.terms.recon``.
        """
        override = self.remedies.get(need)
        return path + override if override is not None and override.startswith(".") else override

    def at(self, progress: Progress) -> None:
        """Take note of where training stands, before `forward`; for a term whose definition moves with training.

        In evaluation it is the end of the run: checkpoints are compared by what they will be judged by.
        """

    def forward(self, batch: Batch, output: ModelOutput) -> dict[str, Tensor]:
        """Return every name of `scalars` as a float32 scalar; further names are diagnostics, logged without weight."""
        raise NotImplementedError

    def commit(self, output: ModelOutput) -> None:
        """Remember something of a training batch; called once per optimiser step, never in validation."""

    def constants(self) -> Mapping[str, float]:
        """Return figures that do not change in a run and help to read it, logged under ``sched/``."""
        return {}
