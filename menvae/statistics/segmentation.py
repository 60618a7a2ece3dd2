"""Agreement of label maps: soft Dice (Milletari, Navab & Ahmadi 2016, V-Net, 3DV) and cross-entropy."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd import Function

from menvae.differentiation import first_order


class LabelSums(NamedTuple):
    """Sums over subjects and voxels of a batch, for each of K labels: p are predicted shares, y one-hot labels.

    Attributes:
        both: p y [K].
        predicted: p [K].
        true: y [K].
        surprise: -y log p [K]; its sum over labels, over the number of voxels, is the mean cross-entropy.
    """

    both: Tensor
    predicted: Tensor
    true: Tensor
    surprise: Tensor


def label_sums(logits: Tensor, labels: Tensor) -> LabelSums:
    """Return the sums that soft Dice and cross-entropy are made of; the softmax is computed once and kept for both.

    The gradient is that of the softmax: dL/dlogits = p (h - sum over labels of p h), h = dL/dp.

    Args:
        logits: of the labels [B, K, D, H, W]; the first is the background.
        labels: int64 [B, D, H, W], 0 to K - 1.
    """
    with torch.autocast(logits.device.type, enabled=False):  # sums over voxels need 32 bits
        sums: Tensor = _LabelSums.apply(logits, labels)  # type: ignore[no-untyped-call]
    return LabelSums(*sums)


def dice(sums: LabelSums) -> Tensor:
    """Return the Dice coefficient of each label but the background [K - 1].

    One voxel is added to numerator and denominator: a label that neither map has agrees perfectly.

    >>> both, predicted, true = torch.tensor([[9.0, 0.0, 4.0], [9.0, 0.0, 4.0], [9.0, 0.0, 5.0]])
    >>> dice(LabelSums(both, predicted, true, surprise=torch.zeros(3)))
    tensor([1.0000, 0.9000])
    """
    return ((2.0 * sums.both + 1.0) / (sums.predicted + sums.true + 1.0))[1:]


def dice_of_masks(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Return the Dice coefficient of two masks of one shape; 0 where both are empty.

    >>> dice_of_masks(np.array([True, True, False]), np.array([True, False, False]))
    0.6666666666666666
    """
    return 2.0 * int(np.sum(one & other)) / max(1, int(np.sum(one)) + int(np.sum(other)))


class _LabelSums(Function):
    """Rows of `LabelSums` [4, K]; keeps the shares and the labels."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits [B, K, ...], labels [B, ...] -> [4, K]."""
        num_labels = logits.shape[1]
        dtype = torch.promote_types(logits.dtype, torch.float32)
        logs = logits.flatten(2).to(dtype).log_softmax(dim=1)
        places = labels.reshape(len(labels), 1, -1)
        surprise = -logs.gather(1, places)
        shares = logs.exp_()
        ctx.save_for_backward(shares, places)
        ctx.shape, ctx.dtype = logits.shape, logits.dtype
        wanted = places == torch.arange(num_labels, device=logits.device).reshape(1, -1, 1)
        of_voxels = torch.cat([shares.gather(1, places), torch.ones_like(surprise), surprise], dim=1)
        if logits.device.type == "cpu":
            both, true, surprise = (of_voxels @ wanted.transpose(1, 2).to(dtype)).sum(dim=0)
        else:  # a matrix product may round to 19 bits there (TF32)
            both, true, surprise = (of_voxels.unsqueeze(2) * wanted.unsqueeze(1)).sum(dim=(0, 3))
        return torch.stack([both, shares.sum(dim=(0, 2)), true, surprise])

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """[4, K] -> gradient of the logits [B, K, ...]."""
        shares, places = ctx.saved_tensors
        of_both, of_predicted, _, of_surprise = gradient.unbind()
        of_predicted = of_predicted.reshape(1, -1, 1)
        chosen = places.flatten()
        own = of_both[chosen].view_as(places) * shares.gather(1, places)
        surprise = of_surprise[chosen].view_as(places)
        offset = surprise - own - (of_predicted * shares).sum(dim=1, keepdim=True)
        of_logits = (of_predicted + offset).mul_(shares)
        of_logits.scatter_add_(1, places, own - surprise)
        return of_logits.to(ctx.dtype).reshape(ctx.shape), None
