"""Hinge that keeps every latent from collapsing to a constant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from menvae.collectives import gather_rows
from menvae.registry import Field, register
from menvae.terms import Term, TermContext
from menvae.types import Batch, ModelOutput

_SMALLEST_VARIANCE = 1e-4  # added before the square root, whose gradient is infinite at 0


@register("term", "variance_hinge", reference="Bardes, Ponce & LeCun 2022 (VICReg), eq. 1")
class VarianceHinge(Term):
    """Mean over latents of max(0, ``target`` - sd of the posterior mean): 0 once every latent varies enough.

    The unbiased standard deviation is that of the batch of all ranks.
    """

    scalars = ("variance_hinge",)
    min_rows = 2

    def __init__(
        self,
        context: TermContext,
        *,
        partitions: Sequence[str] | None = None,
        target: Annotated[float, Field(gt=0.0)] = 1.0,
    ) -> None:
        """Choose the partitions.

        Args:
            context: run context.
            partitions: partitions to include; None: all.
            target: standard deviation from which on a latent is not penalised.
        """
        super().__init__()
        self.layout, self.target = context.layout, target
        self.partitions = context.layout.chosen(partitions)

    def forward(self, batch: Batch, output: ModelOutput) -> dict[str, Tensor]:
        """Return ``variance_hinge``; 0 for a single row."""
        rows = gather_rows(self.layout.join(output.posterior.mean.float(), self.partitions))
        if len(rows) < self.min_rows:
            return {"variance_hinge": 0.0 * rows.sum()}
        deviation = (rows.var(dim=0) + _SMALLEST_VARIANCE).sqrt()
        return {"variance_hinge": torch.relu(self.target - deviation).mean()}
