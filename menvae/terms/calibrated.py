"""Gaussian likelihood with the maximum-likelihood variance of the batch (sigma-VAE)."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from menvae.registry import Field, register
from menvae.statistics.gaussian import calibrated_nats
from menvae.terms import Term, TermContext
from menvae.terms.reconstruction import REMEDIES, mean_squared_error, mean_squared_errors, requirements
from menvae.types import Batch, ModelOutput


@register("term", "calibrated", reference="Rybkin, Daniilidis & Levine 2021 (sigma-VAE)")
class CalibratedLikelihood(Term):
    """Negative log likelihood in nats per voxel, (log(2 pi MSE) + 1) / 2.

    Its gradient is that of MSE / (2 MSE.detach()), so its relative strength does not fade as the error falls. Together
    with a KL per voxel (``kl`` with ``reduction: per_voxel``), equal weights give the evidence lower bound;
    ``lambda_recon = lambda_kl = 10`` puts the useful range of the other weights at 0 to 10.
    """

    scalars = ("recon",)
    requires = frozenset({"reconstruction"})
    unit = "nats_per_voxel"
    remedies = REMEDIES

    def __init__(
        self,
        context: TermContext,
        *,
        per_modality: bool = False,
        tumour_weight: Annotated[float, Field(gt=0.0)] = 1.0,
    ) -> None:
        """Choose the variances and the weights of voxels.

        Args:
            context: run context.
            per_modality: estimate one variance per channel, so that the gradient of each scales with its own error.
            tumour_weight: weight of a voxel inside the mask, 1 outside; only 1 needs no mask. The variance is that of
                the weighted errors.
        """
        super().__init__()
        self.per_modality, self.tumour_weight = per_modality, tumour_weight
        self.batch_requires = requirements(tumour_weight)

    def forward(self, batch: Batch, output: ModelOutput) -> dict[str, Tensor]:
        """Return ``recon`` and, as a diagnostic, the mean squared error ``mse``."""
        measure = mean_squared_errors if self.per_modality else mean_squared_error
        errors = measure(batch, output.reconstruction, batch.inputs, self.tumour_weight)
        return {"recon": calibrated_nats(errors).mean(), "mse": errors.mean().detach()}
