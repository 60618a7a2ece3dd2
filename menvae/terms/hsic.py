"""Independence of the latent partitions by the Hilbert-Schmidt criterion."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Annotated

import torch
from torch import Tensor

from menvae.collectives import gather_rows
from menvae.registry import Field, register
from menvae.statistics.hsic import Estimator, bordered_hsic, median_distances
from menvae.statistics.pairwise import MIN_ROWS
from menvae.terms import Term, TermContext
from menvae.terms.row_memory import GradientScale, JoinedRows, RowMemory
from menvae.types import Batch, ModelOutput


@register("term", "hsic", reference="Gretton et al. 2005; Song et al. 2012; Cortes, Mohri & Rostamizadeh 2012")
class HilbertSchmidt(Term):
    """Sum over pairs of partitions of the Hilbert-Schmidt independence criterion of posterior means.

    The memory of earlier batches is that of ``dcor``. By default each pair is normalised to about [0, 1] for partitions
    of any size, as in ``dcor``, so similar weights work. Without normalisation a pair is at most about 1 / 4, and less
    the more dimensions a partition has. Unlike distance correlation, HSIC has a bandwidth: dependence at very
    different distances counts little.
    """

    scalars = ("hsic",)
    of_split = True
    min_rows = MIN_ROWS
    remedies = MappingProxyType({"rows": f".buffer_size={MIN_ROWS}"})

    def __init__(
        self,
        context: TermContext,
        *,
        partitions: Sequence[str] | None = None,
        buffer_size: Annotated[int, Field(ge=0)] = 256,
        bandwidth: Annotated[float, Field(gt=0.0)] | None = None,
        estimator: Estimator = "unbiased",
        normalise: bool = True,
        gradient_scale: GradientScale = "batch",
    ) -> None:
        """Choose the pairs, the kernel and the memory.

        Args:
            context: run context.
            partitions: partitions to make independent of each other; None: all.
            buffer_size: total number of rows, including the batch; 0: only the batch.
            bandwidth: bandwidth of the Gaussian kernels, in units of z; None: the median distance in each partition
                between stored rows (between batch and all rows while fewer than 4 are stored), without gradient.
            estimator: ``unbiased`` (may be negative) or ``biased``.
            normalise: divide each pair by the geometric mean of the HSIC of each partition with itself.
            gradient_scale: ``batch`` shrinks with the total number of rows, ``all_rows`` does not; see ``dcor``.
        """
        super().__init__()
        self.partitions = context.layout.chosen(partitions, at_least=2)
        self.bandwidth, self.estimator, self.normalise = bandwidth, estimator, normalise
        self.gradient_scale: GradientScale = gradient_scale
        self.memory_size = buffer_size
        self.memory = RowMemory(buffer_size, context.layout, self.partitions)

    def forward(self, batch: Batch, output: ModelOutput) -> dict[str, Tensor]:
        """Return ``hsic`` (0 with fewer than 4 rows) and the number of rows ``hsic_rows``."""
        rows = gather_rows(output.posterior.mean.float())
        joined = self.memory.joined(rows) if self.training else self.memory.alone(rows)
        num_rows = rows.new_full((), float(joined.num_rows))
        if joined.num_rows < MIN_ROWS:
            return {"hsic": 0.0 * rows.sum(), "hsic_rows": num_rows}
        found = bordered_hsic(
            joined.border,
            joined.inner,
            joined.slots,
            self._bandwidths(joined),
            estimator=self.estimator,
            normalise=self.normalise,
        )
        value = joined.with_gradient_of(found.triu(diagonal=1).sum(), self.gradient_scale)
        return {"hsic": value.float(), "hsic_rows": num_rows}

    @torch.no_grad()
    def commit(self, output: ModelOutput) -> None:
        """Store the means of all ranks."""
        self.memory.push(gather_rows(output.posterior.mean.detach().float()))

    def _bandwidths(self, joined: JoinedRows) -> Tensor:
        if self.bandwidth is not None:
            return joined.border.new_full((len(self.partitions),), self.bandwidth)
        remembered = self.memory.remembered_distances()
        enough = self.training and remembered.shape[-1] >= MIN_ROWS
        return median_distances(remembered if enough else joined.border)
