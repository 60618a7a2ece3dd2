"""The squared error that the terms of reconstruction share."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import mse_loss

from menvae.collectives import mean_over_ranks, sum_over_ranks
from menvae.types import Batch, ModelOutput


def requirements(tumour_weight: float) -> frozenset[str]:
    """Return what a batch must hold for this weight (see `menvae.terms.Term.batch_requires`)."""
    return frozenset() if tumour_weight == 1.0 else frozenset({"mask"})


def mean_squared_error(batch: Batch, output: ModelOutput, tumour_weight: float) -> Tensor:
    """Mean over subjects of all ranks, channels and voxels of the squared error of the reconstruction: a scalar.

    Args:
        batch: inputs, and the mask where the weight is not 1.
        output: its reconstruction.
        tumour_weight: weight of a voxel inside the mask; outside it is 1. The mean is over weights: where the error is
            the same everywhere, it is the same for every weight.
    """
    reconstruction, inputs = output.reconstruction.float(), batch.inputs.float()
    if tumour_weight == 1.0:
        return mean_over_ranks(mse_loss(reconstruction, inputs))
    assert batch.mask is not None, "the experiment refuses a term whose batch_requires its data do not give"
    weights = 1.0 + (tumour_weight - 1.0) * (batch.mask > 0).to(reconstruction.dtype)
    total = sum_over_ranks((weights * (reconstruction - inputs).square()).sum())
    return total / (sum_over_ranks(weights.sum()) * inputs.shape[1])
