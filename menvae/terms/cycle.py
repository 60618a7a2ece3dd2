"""Cycle consistency: a partition is to hold what its predictions tell, and nothing else."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import mse_loss

from menvae.collectives import mean_over_ranks
from menvae.registry import register
from menvae.terms import Term, TermContext
from menvae.types import Batch, ModelOutput


@register("term", "cycle", reference="Zhu et al. 2017, eq. 2; design report, recommendations")
class CycleConsistency(Term):
    """Mean squared distance of a partition's mean from what the inverse head recovers of it; ``cycle_<partition>``.

    Half of the cycle of Zhu et al.: coordinates -> predictions -> coordinates. The model detaches the predictions (see
    `menvae.models.semivae.SemiVAE.recover`), so the term trains the inverse head, which comes to be the mean of the
    coordinates given the predictions, and the encoder, which is drawn to that mean; it does not bend the head, whose
    predictions are what supervision makes them, and it cannot be lowered by predictions that carry more than their
    targets. Without the detachment the cheapest cycle is such a code (Chu et al. 2017).
    """

    unit = "mean_squared_error"

    def __init__(self, context: TermContext, *, partition: str, train_encoder: bool = True) -> None:
        """Choose what is trained.

        Args:
            context: of the run.
            partition: whose coordinates are recovered.
            train_encoder: False trains the inverse head alone, to read coordinates from predictions afterwards, and
                leaves the latent space as it is.
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
