"""Gaussian likelihood whose variance is the one that explains the batch best (sigma-VAE)."""

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

    Its gradient is that of MSE / (2 MSE.detach()): as the error falls, the pull towards a smaller one stays. Beside a
    KL divided by the same number of voxels (``kl`` with ``reduction: per_voxel``) equal weights are the evidence lower
    bound itself; ``lambda_recon = lambda_kl = 10`` puts the useful range of the other weights at 0 to 10.
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
            context: of the run.
            per_modality: a variance for each channel: the pull on each follows its own error, not the mean.
            tumour_weight: weight of a voxel inside the mask, 1 outside; 1 needs no mask. With another the variance is
                that of the weighted errors.
        """
        super().__init__()
        self.per_modality, self.tumour_weight = per_modality, tumour_weight
        self.batch_requires = requirements(tumour_weight)

    def forward(self, batch: Batch, output: ModelOutput) -> dict[str, Tensor]:
        """Return ``recon``, and the squared error ``mse`` that it was made from."""
        measure = mean_squared_errors if self.per_modality else mean_squared_error
        errors = measure(batch, output.reconstruction, batch.inputs, self.tumour_weight)
        return {"recon": calibrated_nats(errors).mean(), "mse": errors.mean().detach()}
