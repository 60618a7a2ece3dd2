"""Independence of the latent partitions by distance correlation."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Annotated

import torch
from torch import Tensor

from menvae.collectives import gather_rows
from menvae.registry import Field, register
from menvae.statistics.distance_correlation import (
    MIN_ROWS,
    bordered_u_distance_correlations_sqr,
    partial_correlations,
)
from menvae.terms import Term, TermContext
from menvae.terms.row_memory import GradientScale, RowMemory
from menvae.types import Batch, ModelOutput


@register("term", "dcor", reference="Szekely & Rizzo 2014; SemiVAE Run 6")
class DistanceCorrelation(Term):
    """Sum over pairs of partitions of the squared, U-centred distance correlation of posterior means.

    It is estimated on the batch of all ranks plus a first-in first-out memory of detached means of earlier batches. The
    memory fills from the first step, so that it is full when the weight rises. Checkpoints store it, and it is
    identical on all ranks.

    Rows of different age come from different encoders. If the means of several partitions drift, independent partitions
    appear dependent. The diagnostic ``dcor_age_partialled`` is the same sum of partial distance correlations given the
    age (squared differences in steps), which stays near 0 for a drift of up to 2 sd. If ``dcor`` is much larger, reduce
    ``buffer_size``.
    """

    scalars = ("dcor",)
    of_split = True
    min_rows = MIN_ROWS
    remedies = MappingProxyType({"rows": f".buffer_size={MIN_ROWS}"})

    def __init__(
        self,
        context: TermContext,
        *,
        partitions: Sequence[str] | None = None,
        buffer_size: Annotated[int, Field(ge=0)] = 256,
        gradient_scale: GradientScale = "batch",
    ) -> None:
        """Choose the pairs and the memory.

        Args:
            context: run context.
            partitions: partitions to make independent of each other; None: all.
            buffer_size: total number of rows, including the batch; 0: only the batch.
            gradient_scale: ``batch`` is the derivative with respect to the rows of the batch, which shrinks with the
                total number of rows: a weight tuned for one ``buffer_size`` does not transfer to another. ``all_rows``
                multiplies it by total rows / batch rows, as if all rows followed the encoder, so that a weight is
                valid for every ``buffer_size``, including the batch alone. The value is not scaled.
        """
        super().__init__()
        self.partitions = context.layout.chosen(partitions, at_least=2)
        self.gradient_scale: GradientScale = gradient_scale
        self.memory_size = buffer_size
        self.memory = RowMemory(buffer_size, context.layout, self.partitions)

    def forward(self, batch: Batch, output: ModelOutput) -> dict[str, Tensor]:
        """Return ``dcor``, the number of rows ``dcor_rows`` and, with a memory, ``dcor_age_partialled``.

        With fewer than 4 rows, ``dcor`` and ``dcor_age_partialled`` are 0.
        """
        rows = gather_rows(output.posterior.mean.float())
        joined = self.memory.joined(rows) if self.training else self.memory.alone(rows)
        if joined.num_rows < MIN_ROWS:
            dcor, age_partialled = 0.0 * rows.sum(), rows.new_zeros(())
        else:
            correlations = bordered_u_distance_correlations_sqr(
                joined.border_and_ages, joined.inner_and_ages, joined.slots
            )
            age_partialled = _sum_over_pairs(partial_correlations(correlations.detach()))
            dcor = joined.with_gradient_of(_sum_over_pairs(correlations[:-1, :-1]), self.gradient_scale)
        values = {"dcor": dcor.float(), "dcor_rows": rows.new_full((), float(joined.num_rows))}
        return values | ({"dcor_age_partialled": age_partialled.float()} if self.memory.size else {})

    @torch.no_grad()
    def commit(self, output: ModelOutput) -> None:
        """Store the means of all ranks."""
        self.memory.push(gather_rows(output.posterior.mean.detach().float()))


def _sum_over_pairs(values_KK: Tensor) -> Tensor:
    return values_KK.triu(diagonal=1).sum()
