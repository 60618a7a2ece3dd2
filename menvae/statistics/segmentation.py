"""Agreement of label maps: soft Dice (Milletari, Navab & Ahmadi 2016, V-Net, 3DV)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def overlaps(shares: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the soft overlap of each label but the background, and the two sizes together, summed over a batch.

    Args:
        shares: of the labels, p [B, K, D, H, W], which sum to 1 over K.
        labels: int64 [B, D, H, W], 0 to K - 1; 0 is the background.

    Returns:
        Sums over subjects and voxels of p y and of p + y, for y the one-hot labels, [K - 1].
    """
    numbers = torch.arange(shares.shape[1], device=shares.device).reshape(1, -1, *(1,) * (shares.ndim - 2))
    wanted = (labels.unsqueeze(1) == numbers).to(shares.dtype)
    every = (0, *range(2, shares.ndim))
    both, either = (shares * wanted).sum(dim=every), shares.sum(dim=every) + wanted.sum(dim=every)
    return both[1:], either[1:]


def dice(both: Tensor, either: Tensor) -> Tensor:
    """Return the Dice coefficients [K - 1] of `overlaps`, with one voxel added to numerator and denominator.

    A label that neither map has agrees perfectly.

    >>> dice(torch.tensor([0.0, 4.0]), torch.tensor([0.0, 9.0]))
    tensor([1.0000, 0.9000])
    """
    return (2.0 * both + 1.0) / (either + 1.0)


def dice_of_masks(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Return the Dice coefficient of two masks of one shape; 0 where both are empty.

    >>> dice_of_masks(np.array([True, True, False]), np.array([True, False, False]))
    0.6666666666666666
    """
    return 2.0 * int(np.sum(one & other)) / max(1, int(np.sum(one)) + int(np.sum(other)))
