"""Density of the latents under the prior."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from menvae.collectives import mean_over_ranks
from menvae.registry import register
from menvae.terms import Term, TermContext
from menvae.types import Batch, ModelOutput


@register("term", "manifold", reference="SemiVAE Run 6")
class ManifoldDensity(Term):
    """Half the mean of z^2 over subjects and dimensions: -log N(z; 0, 1) per dimension, without its constant.

    It pulls every decoded z towards high prior density and, unlike a KL, does not penalise a narrow posterior. In
    evaluation, where the mean is decoded, it is the expectation over samples, (mean^2 + variance) / 2.
    """

    scalars = ("manifold",)
    unit = "nats_per_dimension"

    def __init__(self, context: TermContext, *, partitions: Sequence[str] | None = None) -> None:
        """Args: context: run context. partitions: partitions to include; None: all."""
        super().__init__()
        self.layout = context.layout
        self.partitions = context.layout.chosen(partitions)

    def forward(self, batch: Batch, output: ModelOutput) -> dict[str, Tensor]:
        """Return ``manifold``."""
        if self.training:
            squares = output.latent.float().square()
        else:
            posterior = output.posterior
            squares = posterior.mean.float().square() + posterior.logvar.float().exp()
        return {"manifold": 0.5 * mean_over_ranks(self.layout.join(squares, self.partitions).mean())}
