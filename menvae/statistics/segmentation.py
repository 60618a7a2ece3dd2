"""Agreement of label maps: soft Dice (Milletari, Navab & Ahmadi 2016, V-Net, 3DV)."""

from __future__ import annotations

import torch
from torch import Tensor


def overlaps(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the soft overlap of each label but the background, and the two sizes together, summed over a batch.

    Args:
        logits: [B, K, D, H, W].
        labels: int64 [B, D, H, W], 0 to K - 1; 0 is the background.

    Returns:
        Sums over subjects and voxels of p y and of p + y, for p = softmax(logits) and y the one-hot labels, [K - 1] in
        float32.
    """
    shares = logits.float().softmax(dim=1)[:, 1:]
    numbers = torch.arange(1, logits.shape[1], device=logits.device).reshape(1, -1, *(1,) * (logits.ndim - 2))
    wanted = labels.unsqueeze(1) == numbers
    every = (0, *range(2, logits.ndim))
    return (shares * wanted).sum(dim=every), shares.sum(dim=every) + wanted.sum(dim=every)


def dice(both: Tensor, either: Tensor) -> Tensor:
    """Return the Dice coefficients [K - 1] of `overlaps`, with one voxel added to numerator and denominator.

    A label that neither map has agrees perfectly.

    >>> dice(torch.tensor([0.0, 4.0]), torch.tensor([0.0, 9.0]))
    tensor([1.0000, 0.9000])
    """
    return (2.0 * both + 1.0) / (either + 1.0)
