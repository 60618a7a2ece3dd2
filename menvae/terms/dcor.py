"""Independence of the latent partitions by distance correlation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from menvae.collectives import gather_rows
from menvae.errors import UserError
from menvae.registry import Field, register
from menvae.statistics.distance_correlation import MIN_ROWS, u_distance_correlations_sqr
from menvae.terms import Term, TermContext
from menvae.types import Batch, ModelOutput


@register("term", "dcor", reference="Szekely & Rizzo 2014; SemiVAE Run 6")
class DistanceCorrelation(Term):
    """Sum over pairs of partitions of the squared, U-centred distance correlation of posterior means.

    It is estimated on the batch of all ranks plus a first-in first-out buffer of detached means of earlier batches.
    The buffer is filled from the first step on, so that it is full when the weight rises; it is a set of torch buffers
    (so it is part of checkpoints) and identical on all ranks. The gradient that one row receives falls with the number
    of rows: a weight tuned for one ``buffer_size`` does not carry over to another.
    """

    scalars = ("dcor",)
    memory: Tensor
    num_filled: Tensor

    def __init__(
        self,
        context: TermContext,
        *,
        partitions: Sequence[str] | None = None,
        buffer_size: Annotated[int, Field(ge=0)] = 256,
    ) -> None:
        """Choose the pairs and the memory.

        Args:
            context: of the run.
            partitions: which partitions are made independent of each other; None is all.
            buffer_size: rows in all, batch included; 0 uses the batch alone.
        """
        super().__init__()
        self.layout = context.layout
        self.partitions = list(context.layout) if partitions is None else list(partitions)
        for partition in self.partitions:
            self.layout.bounds(partition)
        if len(set(self.partitions)) != len(self.partitions) or len(self.partitions) < 2:
            raise UserError(f"dcor: partitions {self.partitions} are not allowed; it needs two or more different ones")
        self.register_buffer("memory", torch.zeros(buffer_size, self.layout.z_dim))
        self.register_buffer("num_filled", torch.tensor(0))

    def forward(self, batch: Batch, output: ModelOutput) -> dict[str, Tensor]:
        """Return ``dcor`` (0 while there are fewer than 4 rows) and the number of rows it was estimated on."""
        rows = gather_rows(output.posterior.mean.float())
        num_remembered = max(0, min(int(self.num_filled), len(self.memory) - len(rows)))
        rows = torch.cat([rows, self.memory[:num_remembered]])
        num_rows = torch.tensor(float(len(rows)), device=rows.device)
        if len(rows) < MIN_ROWS:
            return {"dcor": 0.0 * rows.sum(), "dcor_rows": num_rows}
        squared = u_distance_correlations_sqr([self.layout.select(rows, name) for name in self.partitions])
        return {"dcor": squared.triu(diagonal=1).sum().float(), "dcor_rows": num_rows}

    @torch.no_grad()
    def commit(self, output: ModelOutput) -> None:
        """Push the means of all ranks into the memory, newest first."""
        newest = gather_rows(output.posterior.mean.detach().float())[: len(self.memory)]
        self.memory.copy_(torch.cat([newest, self.memory])[: len(self.memory)])
        self.num_filled.fill_(min(len(self.memory), int(self.num_filled) + len(newest)))
