"""Terms: (batch, output) -> named unweighted scalars.

Code passes a `TermContext` to the constructor; the configuration passes the tunables. Weights and schedules belong to
`menvae.objective`.
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
"""Unit of the scalars of a term. Adding terms of different units requires weights that compensate."""

UNITS: tuple[str, ...] = get_args(Unit)


@dataclass(frozen=True)
class TermContext:
    """What a term knows about its run.

    Attributes:
        layout: partitions of z.
        num_input_values: C * D * H * W of one subject, or the number of columns.
        num_training_subjects: N.
    """

    layout: LatentLayout
    num_input_values: int
    num_training_subjects: int


class Term(nn.Module):
    """Base class of terms. State lives in buffers, which checkpoints store; a term has no parameters.

    The attributes are declarations for the checks of an experiment and for the advice before training. A term sets
    them on the class, or in its constructor if they depend on its settings.

    Attributes:
        scalars: names of the outputs of `forward` that weights apply to.
        requires: outputs that the model must provide (see `menvae.models.Model.provides`).
        batch_requires: optional fields of a batch that the term reads, such as ``mask``.
        unit: unit of the scalars, one of `UNITS`; ``dimensionless`` also if no other term has that unit.
        min_rows: smallest number of subjects, in the batch of all ranks plus the memory, for which every scalar depends
            on the output of the model. With fewer, the scalars are finite but at least one is constant.
        memory_size: number of subjects up to which rows of earlier batches extend the batch; 0: no memory.
        of_split: whether validation evaluates the term once, on the latents of the whole split, because it is a
            statistic of their joint distribution that a mean over small batches misses. Such a term reads only the
            posterior, subjects and patients, and in evaluation no rows of training batches.
        compares_visits: whether the term depends on which subjects are visits of the same patient.
        fine_tunes: whether the term is meant for runs that start from the weights of another run.
        limits_information: whether the term pulls the posterior towards the prior, as a KL does, which reduces the
            information in z.
        advised_weights: scalar -> (lowest, highest) weight that it was designed for; no entry: any weight.
        remedies: need -> override that meets it. A need is an entry of ``requires`` or ``batch_requires``, ``rows``
            (fewer than ``min_rows``), ``visits`` (batches without pairs of visits), or a unit that another term
            requires. A leading dot marks a key of the term: ``{"mask": ".tumour_weight=1", "visits":
            "data.pairs=true"}``. Without a remedy, users are advised to set the weights of the term to 0.
    """

    scalars: tuple[str, ...]
    requires: frozenset[str] = frozenset()
    batch_requires: frozenset[str] = frozenset()
    unit: Unit = "dimensionless"
    min_rows: int = 1
    memory_size: int = 0
    of_split: bool = False
    compares_visits: bool = False
    fine_tunes: bool = False
    limits_information: bool = False
    advised_weights: Mapping[str, tuple[float, float]] = MappingProxyType({})
    remedies: Mapping[str, str] = MappingProxyType({})

    def remedy(self, need: str, path: str) -> str | None:
        """Return the override that meets a need, or None without one.

        Args:
            need: a key of `remedies`.
            path: configuration path of the term, such as ``loss.terms.recon``.
        """
        override = self.remedies.get(need)
        return path + override if override is not None and override.startswith(".") else override

    def effect_of_batch(self, num_rows: int) -> Mapping[str, float]:
        """Return {scalar: factor} by which a batch shrinks its expectation, compared with a large batch; {} if not.

        Args:
            num_rows: number of subjects in the batch of all ranks.
        """
        return {}

    def at(self, progress: Progress) -> None:
        """Set the position in training before `forward`, for terms whose definition depends on it.

        Evaluation uses the end of the run, so that all checkpoints are compared by the same definition.
        """

    def forward(self, batch: Batch, output: ModelOutput) -> dict[str, Tensor]:
        """Return each of `scalars` as a float32 scalar; further entries are diagnostics, logged without a weight."""
        raise NotImplementedError

    def commit(self, output: ModelOutput) -> None:
        """Update the state from a training batch; called once per optimiser step, never in validation."""

    def constants(self) -> Mapping[str, float]:
        """Return values that are constant in a run, logged under ``sched/`` as a reference for readers."""
        return {}
