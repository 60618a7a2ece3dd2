"""The squared error that the terms of reconstruction share."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from menvae.collectives import mean_over_ranks, sum_over_ranks
from menvae.types import Batch

REMEDIES: Mapping[str, str] = MappingProxyType({"mask": ".tumour_weight=1"})
"""Of terms with a ``tumour_weight`` (see `menvae.terms.Term.remedies`)."""


def requirements(tumour_weight: float) -> frozenset[str]:
    """Return what a batch must hold for this weight (see `menvae.terms.Term.batch_requires`)."""
    return frozenset() if tumour_weight == 1.0 else frozenset({"mask"})


def present(batch: Batch, values: Tensor) -> Tensor | None:
    """Return which values [B, C, ...] there are as bool [B, C, 1, ...], or None: all; the others may be NaN."""
    if batch.available is None:
        return None
    return batch.available.reshape(*batch.available.shape, *(1,) * (values.ndim - 2))


def share_present(batch: Batch) -> float | Tensor:
    """Return the share of modalities that there are in the batch of all ranks, in [0, 1]."""
    return 1.0 if batch.available is None else mean_over_ranks(batch.available.float().mean())


def mean_squared_error(batch: Batch, reconstruction: Tensor, inputs: Tensor, tumour_weight: float = 1.0) -> Tensor:
    """Mean over subjects of all ranks, channels and voxels of a squared error: a scalar.

    Args:
        batch: which modalities there are, and the mask where the weight is not 1.
        reconstruction: [B, C, ...].
        inputs: what it should be; a modality that is missing has no say.
        tumour_weight: weight of a voxel inside the mask; outside it is 1. The mean is over weights: where the error is
            the same everywhere, it is the same for every weight.
    """
    if tumour_weight == 1.0 and batch.available is None:
        return mean_over_ranks(mse_loss(reconstruction.float(), inputs.float()))
    errors, weights = _sums(batch, reconstruction, inputs, tumour_weight)
    return errors.sum() / weights.sum()


def mean_squared_errors(batch: Batch, reconstruction: Tensor, inputs: Tensor, tumour_weight: float = 1.0) -> Tensor:
    """Return what `mean_squared_error` does for each channel [C]; 1 for a modality that no subject has."""
    errors, weights = _sums(batch, reconstruction, inputs, tumour_weight)
    return torch.where(weights > 0, errors / weights.clamp(min=1.0), 1.0)


def _sums(batch: Batch, reconstruction: Tensor, inputs: Tensor, tumour_weight: float) -> tuple[Tensor, Tensor]:
    """Return the weighted sum of squared errors and the sum of weights of each channel [C], over all ranks."""
    differences = reconstruction.float() - inputs.float()
    weights = torch.ones_like(differences)
    if tumour_weight != 1.0:
        assert batch.mask is not None, "the experiment refuses a term whose batch_requires its data do not give"
        weights = weights + (tumour_weight - 1.0) * (batch.mask > 0)
    there = present(batch, differences)
    if there is not None:
        weights, differences = weights * there, differences.masked_fill(~there, 0.0)
    squares = weights * differences.square()
    errors, totals = (values.transpose(0, 1).flatten(1).sum(dim=1) for values in (squares, weights))
    return sum_over_ranks(errors), sum_over_ranks(totals)
