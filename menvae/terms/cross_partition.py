"""Linear independence of the partitions: the penalty that distance correlation replaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor

from menvae.collectives import gather_rows
from menvae.registry import register
from menvae.statistics.covariance import covariance, shrinkage, squared_correlations
from menvae.terms import Term, TermContext
from menvae.types import Batch, ModelOutput


@register("term", "cross_partition", reference="SemiVAE Run 6 (Pearson, legacy)")
class CrossPartition(Term):
    """Sum, over pairs of partitions, of the squared covariances or correlations between their dimensions.

    It uses the posterior means of the batch of all ranks and detects only linear dependence: a partition may encode the
    square of another without penalty. See ``dcor``.
    """

    scalars = ("cross_partition",)
    of_split = True

    def __init__(
        self,
        context: TermContext,
        *,
        partitions: Sequence[str] | None = None,
        statistic: Literal["covariance", "correlation", "mean_correlation"] = "covariance",
    ) -> None:
        """Choose the pairs and the measure.

        Args:
            context: run context.
            partitions: partitions to make independent of each other; None: all.
            statistic: ``covariance``, which shrinking the means also reduces; Pearson's ``correlation``, which is
                invariant to scale and always 1 or -1 for two subjects; or ``mean_correlation``, the legacy penalty:
                Pearson's correlation of the means over the dimensions of each partition, one number per partition.

        Raises:
            UserError: a partition does not exist, or there are fewer than two different ones.
        """
        super().__init__()
        self.partitions = context.layout.chosen(partitions, at_least=2)
        self.slices = [slice(*context.layout.bounds(name)) for name in self.partitions]
        self.statistic = statistic
        self.min_rows = 2 if statistic == "covariance" else 3

    def effect_of_batch(self, num_rows: int) -> Mapping[str, float]:
        """Return the factor of a squared covariance; a correlation has none."""
        return {"cross_partition": shrinkage(num_rows) ** 2} if self.statistic == "covariance" else {}

    def forward(self, batch: Batch, output: ModelOutput) -> dict[str, Tensor]:
        """Return ``cross_partition``."""
        rows, slices = gather_rows(output.posterior.mean.float()), self.slices
        if self.statistic == "mean_correlation":
            rows = torch.stack([rows[:, of].mean(dim=1) for of in slices], dim=1)
            slices = [slice(index, index + 1) for index in range(len(slices))]
        matrix = covariance(rows)
        squared = matrix.square() if self.statistic == "covariance" else squared_correlations(matrix)
        return {"cross_partition": torch.stack([squared[block].sum() for block in combinations(slices, 2)]).sum()}
