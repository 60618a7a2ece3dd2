"""Squared error shared by the reconstruction terms."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from menvae.collectives import mean_over_ranks, sum_over_ranks
from menvae.types import Batch

REMEDIES: Mapping[str, str] = MappingProxyType({"mask": ".tumour_weight=1"})
"""Remedies of terms with a ``tumour_weight`` (see `menvae.terms.Term.remedies`)."""


def requirements(tumour_weight: float) -> frozenset[str]:
    """Return the fields of a batch that this weight requires (see `menvae.terms.Term.batch_requires`)."""
    return frozenset() if tumour_weight == 1.0 else frozenset({"mask"})


def present(batch: Batch, values: Tensor) -> Tensor | None:
    """Return a bool mask [B, C, 1, ...] of the available values [B, C, ...], None for all; others may be NaN."""
    if batch.available is None:
        return None
    return batch.available.reshape(*batch.available.shape, *(1,) * (values.ndim - 2))


def mean_squared_error(batch: Batch, reconstruction: Tensor, inputs: Tensor, tumour_weight: float = 1.0) -> Tensor:
    """Return the mean squared error over subjects of all ranks, channels and voxels, a scalar.

    Args:
        batch: gives the available modalities, and the mask if the weight is not 1.
        reconstruction: [B, C, ...].
        inputs: ground truth [B, C, ...]; missing modalities are excluded.
        tumour_weight: weight of a voxel inside the mask, 1 outside. The weighted mean is normalised by the sum of
            weights, so a uniform error does not depend on the weight.
    """
    if tumour_weight == 1.0 and batch.available is None:
        return mean_over_ranks(mse_loss(reconstruction.float(), inputs.float()))
    errors, weights = _sums(batch, reconstruction, inputs, tumour_weight)
    return errors.sum() / weights.sum()


def mean_squared_errors(batch: Batch, reconstruction: Tensor, inputs: Tensor, tumour_weight: float = 1.0) -> Tensor:
    """Return `mean_squared_error` per channel [C]; 1 for a modality that no subject has."""
    errors, weights = _sums(batch, reconstruction, inputs, tumour_weight)
    return torch.where(weights > 0, errors / weights.clamp(min=1.0), 1.0)


def _sums(batch: Batch, reconstruction: Tensor, inputs: Tensor, tumour_weight: float) -> tuple[Tensor, Tensor]:
    """Return the weighted sum of squared errors and the sum of weights of each channel [C], over all ranks."""
    differences = reconstruction.float() - inputs.float()
    weights = torch.ones_like(differences)
    if tumour_weight != 1.0:
        assert batch.mask is not None, "experiments reject terms whose batch_requires the data do not provide"
        weights = weights + (tumour_weight - 1.0) * (batch.mask > 0)
    available = present(batch, differences)
    if available is not None:
        weights, differences = weights * available, differences.masked_fill(~available, 0.0)
    squares = weights * differences.square()
    errors, totals = (values.transpose(0, 1).flatten(1).sum(dim=1) for values in (squares, weights))
    return sum_over_ranks(errors), sum_over_ranks(totals)
