"""Penalty that pulls the covariance of the latents towards the identity (DIP-VAE)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from torch import Tensor

from menvae.collectives import gather_rows
from menvae.registry import register
from menvae.statistics.covariance import (
    aggregate_covariance,
    covariance,
    diagonal_from_one_sqr,
    off_diagonal_sqr,
    shrinkage,
)
from menvae.terms import Term, TermContext
from menvae.types import Batch, ModelOutput


@register("term", "dip", reference="Kumar, Sattigeri & Balakrishnan 2018, eq. 6 and 7")
class DisentangledInferredPrior(Term):
    """Sums of the squared off-diagonal entries of the covariance (``od``) and of its squared diagonal minus 1 (``d``).

    The covariance is that of the batch of all ranks. With M rows its rank is at most M - 1, so P independent dimensions
    of unit variance have an ``od`` of about P (P - 1) / M. Compare with this baseline, and prefer large batches.
    """

    scalars = ("od", "d")
    of_split = True
    min_rows = 2

    def __init__(
        self, context: TermContext, *, kind: Literal["i", "ii"] = "ii", partitions: Sequence[str] | None = None
    ) -> None:
        """Choose the covariance.

        Args:
            context: run context.
            kind: covariance of the posterior means (``i``), or of the aggregate posterior,
                Cov(mean) + mean(diag(exp(logvar))) (``ii``).
            partitions: partitions to include; None: all.
        """
        super().__init__()
        self.layout = context.layout
        self.partitions = context.layout.chosen(partitions)
        self.kind = kind

    def effect_of_batch(self, num_rows: int) -> Mapping[str, float]:
        """Return the factor of ``od``: that of a squared covariance."""
        return {"od": shrinkage(num_rows) ** 2}

    def forward(self, batch: Batch, output: ModelOutput) -> dict[str, Tensor]:
        """Return ``od``, ``d`` and their sum ``cov_penalty``, the squared distance from the identity matrix."""
        means = gather_rows(self.layout.join(output.posterior.mean.float(), self.partitions))
        if self.kind == "i":
            matrix = covariance(means)
        else:
            logvars = gather_rows(self.layout.join(output.posterior.logvar.float(), self.partitions))
            matrix = aggregate_covariance(means, logvars)
        od, d = off_diagonal_sqr(matrix), diagonal_from_one_sqr(matrix)
        return {"od": od, "d": d, "cov_penalty": (od + d).detach()}
