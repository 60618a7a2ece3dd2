"""Supervision of one partition."""

from __future__ import annotations

from torch import Tensor

from menvae.collectives import sum_over_ranks
from menvae.errors import UserError
from menvae.registry import register
from menvae.terms import Term, TermContext
from menvae.types import Batch, ModelOutput


@register("term", "semantic", reference="SemiVAE Run 6")
class Semantic(Term):
    """Mean squared error of the observed z-scored targets; the scalar is named after the partition."""

    unit = "mean_squared_error"

    def __init__(self, context: TermContext, *, partition: str) -> None:
        """Choose the partition.

        Args:
            context: run context.
            partition: partition whose predictions are supervised.

        Raises:
            UserError: the partition does not exist.
        """
        super().__init__()
        try:
            context.layout.bounds(partition)
        except UserError as error:
            without = f"~loss.terms.{partition} ~loss.lambda_{partition} ~loss.schedules.{partition}"
            raise UserError(
                f"{error}; use loss=vae, dip or tcvae, which have no supervision, or remove the term with {without}"
            ) from None
        self.partition = partition
        self.scalars = (partition,)
        self.requires = frozenset({f"predictions.{partition}"})

    def forward(self, batch: Batch, output: ModelOutput) -> dict[str, Tensor]:
        """Return the scalar; 0 for a batch without observed targets."""
        observed = batch.observed[self.partition].float()
        errors = (output.predictions[self.partition].float() - batch.targets[self.partition].float()).square()
        total = sum_over_ranks((errors * observed).sum())
        return {self.partition: total / sum_over_ranks(observed.sum()).clamp(min=1.0)}
