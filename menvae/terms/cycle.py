"""Cycle consistency: a partition should encode what its predictions determine, and nothing else."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import mse_loss

from menvae.collectives import mean_over_ranks
from menvae.registry import register
from menvae.terms import Term, TermContext
from menvae.types import Batch, ModelOutput


@register("term", "cycle", reference="Zhu et al. 2017, eq. 2; design report, recommendations")
class CycleConsistency(Term):
    """Mean squared error of a partition's mean as recovered by the inverse head: ``cycle_<partition>``.

    This is half of the cycle of Zhu et al.: coordinates -> predictions -> coordinates. The model detaches the
    predictions (see `menvae.models.semivae.SemiVAE.recover`), so the term trains the inverse head towards the mean of
    the coordinates given the predictions, and the encoder towards that mean, but not the head. Without detaching,
    predictions could hide more information than their targets, which is the cheapest cycle (Chu et al. 2017).
    """

    unit = "mean_squared_error"

    def __init__(self, context: TermContext, *, partition: str, train_encoder: bool = True) -> None:
        """Choose the partition and what to train.

        Args:
            context: run context.
            partition: partition to recover.
            train_encoder: if False, train only the inverse head, for later use, without changing the latent space.
        """
        super().__init__()
        context.layout.bounds(partition)
        self.layout, self.partition, self.train_encoder = context.layout, partition, train_encoder
        self.scalars = (f"cycle_{partition}",)
        self.requires = frozenset({f"cycle.{partition}"})

    def forward(self, batch: Batch, output: ModelOutput) -> dict[str, Tensor]:
        """Return the scalar, averaged over subjects and coordinates."""
        mean = self.layout.select(output.posterior.mean, self.partition).float()
        target = mean if self.train_encoder else mean.detach()
        recovered = output.extras[f"cycle.{self.partition}"].float()
        return {self.scalars[0]: mean_over_ranks(mse_loss(recovered, target))}
