"""Terms: (batch, output) -> named unweighted scalars.

A term is constructed with a `TermContext` by code, and its tunables by configuration. Whether a scalar counts, and how
much, is not its business: weights and schedules belong to `menvae.objective`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from menvae.latent import LatentLayout
from menvae.types import Batch, ModelOutput, Progress


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

    Attributes:
        scalars: names of what `forward` returns and weights apply to.
        requires: what the model must provide (see `menvae.models.Model.provides`).
        batch_requires: which fields of a batch it reads that not every cohort has, such as ``mask``.
    """

    scalars: tuple[str, ...]
    requires: frozenset[str] = frozenset()
    batch_requires: frozenset[str] = frozenset()

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
