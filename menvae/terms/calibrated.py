"""Gaussian likelihood whose variance is the one that explains the batch best (sigma-VAE)."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import mse_loss

from menvae.collectives import mean_over_ranks
from menvae.registry import register
from menvae.statistics.gaussian import calibrated_nats
from menvae.terms import Term, TermContext
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

    def __init__(self, context: TermContext, *, per_modality: bool = False) -> None:
        """Args: per_modality: a variance for each channel: the pull on each follows its own error, not the mean."""
        super().__init__()
        self.per_modality = per_modality

    def forward(self, batch: Batch, output: ModelOutput) -> dict[str, Tensor]:
        """Return ``recon``, and the squared error ``mse`` that it was made from."""
        reconstruction, inputs = output.reconstruction.float(), batch.inputs.float()
        if not self.per_modality:
            error = mean_over_ranks(mse_loss(reconstruction, inputs))
            return {"recon": calibrated_nats(error), "mse": error.detach()}
        errors = mean_over_ranks((reconstruction - inputs).square().transpose(0, 1).flatten(1).mean(dim=1))
        return {"recon": calibrated_nats(errors).mean(), "mse": errors.mean().detach()}
