"""Squared reconstruction error in the reductions of the design reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from torch import Tensor

from menvae.collectives import mean_over_ranks, num_ranks
from menvae.registry import Field, register
from menvae.terms import Term, TermContext, Unit
from menvae.terms.reconstruction import REMEDIES, mean_squared_error, requirements
from menvae.types import Batch, ModelOutput

Reduction = Literal["mean", "sum", "batch_sum"]

_UNITS: Mapping[Reduction, Unit] = {
    "mean": "mean_squared_error",
    "sum": "squared_error_per_subject",
    "batch_sum": "squared_error_per_batch",
}


@register("term", "mse", reference="Exp1 and SemiVAE Run 6")
class MeanSquaredError(Term):
    """Squared error of the reconstruction, as a mean or a sum.

    The reports combine the mean with a summed KL. Compared with the evidence lower bound at unit variance, this
    multiplies the weight of the KL by half the number of voxels, and the decoder may stop using z. See ``calibrated``.
    """

    scalars = ("recon",)
    requires = frozenset({"reconstruction"})
    remedies = REMEDIES

    def __init__(
        self,
        context: TermContext,
        *,
        reduction: Reduction = "mean",
        tumour_weight: Annotated[float, Field(gt=0.0)] = 1.0,
    ) -> None:
        """Choose the unit.

        Args:
            context: run context.
            reduction: ``mean`` over subjects, channels and voxels; ``sum`` over channels and voxels, averaged over the
                batch, the unit of ``kl``; ``batch_sum`` also over subjects, the unit of ``tcvae`` with ``sum``. All
                exclude missing modalities.
            tumour_weight: weight of a voxel inside the mask, 1 outside; only 1 needs no mask.
        """
        super().__init__()
        self.reduction, self.tumour_weight = reduction, tumour_weight
        self.unit = _UNITS[reduction]
        self.num_values = float(context.num_input_values)
        self.batch_requires = requirements(tumour_weight)

    def forward(self, batch: Batch, output: ModelOutput) -> dict[str, Tensor]:
        """Return ``recon``."""
        error = mean_squared_error(batch, output.reconstruction, batch.inputs, self.tumour_weight)
        if self.reduction == "mean":
            return {"recon": error}
        num_subjects = len(batch.inputs) * num_ranks()
        total = error * self.num_values * num_subjects
        if batch.available is not None:
            total = total * mean_over_ranks(batch.available.float().mean())
        return {"recon": total if self.reduction == "batch_sum" else total / num_subjects}
