"""Squared reconstruction error in the reductions of the design reports."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn.functional import mse_loss

from menvae.collectives import mean_over_ranks
from menvae.registry import register
from menvae.terms import Term, TermContext
from menvae.types import Batch, ModelOutput


@register("term", "mse", reference="Exp1 and SemiVAE Run 6")
class MeanSquaredError(Term):
    """``mean`` over batch, channels and voxels, or ``sum`` over channels and voxels, averaged over the batch.

    The mean stands beside a summed KL in the reports: that weighs the KL as many times more than the evidence lower
    bound of unit variance as half the number of voxels, and a decoder may stop using z. See ``calibrated``.
    """

    scalars = ("recon",)
    requires = frozenset({"reconstruction"})

    def __init__(self, context: TermContext, *, reduction: Literal["mean", "sum"] = "mean") -> None:
        """Args: reduction: see the class."""
        super().__init__()
        self.scale = 1.0 if reduction == "mean" else float(context.num_input_values)

    def forward(self, batch: Batch, output: ModelOutput) -> dict[str, Tensor]:
        """Return ``recon``."""
        error = mean_over_ranks(mse_loss(output.reconstruction.float(), batch.inputs.float()))
        return {"recon": self.scale * error}
