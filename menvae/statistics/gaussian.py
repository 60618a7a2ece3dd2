"""Densities and divergences of diagonal Gaussians, and the free bits that bound a divergence from below."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

FreeBitsClamping = Literal["batch_mean", "per_sample"]


LOG_2_PI = math.log(2.0 * math.pi)


def log_density(x: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """Log N(x; mean, exp(logvar)) of every entry, in nats: -(log 2 pi + logvar + (x - mean)^2 / exp(logvar)) / 2.

    The difference is taken before it is squared. Expanded into x^2 - 2 x mean + mean^2, the three cancel each other:
    at a log variance of -6 and a mean of 20 float32 is then off by more than 10 nats over 128 dimensions.

    Args:
        x: any shape, in float32 or better.
        mean: shape that broadcasts with that of ``x``.
        logvar: the same.

    >>> log_density(torch.tensor(20.1), torch.tensor(20.0), torch.tensor(-6.0))
    tensor(0.0639)
    """
    return -0.5 * (LOG_2_PI + logvar + (x - mean).square() * torch.exp(-logvar))


def standard_log_density(x: Tensor) -> Tensor:
    """Log N(x; 0, 1) of every entry, in nats."""
    return -0.5 * (LOG_2_PI + x.square())


def free_bits(kl_BZ: Tensor, nats_per_dim: float | Tensor, clamping: FreeBitsClamping) -> Tensor:
    """Sum over dimensions of max(KL, floor), averaged over the batch (Kingma et al. 2016, eq. 15).

    Args:
        kl_BZ: KL per subject and dimension in nats [B, Z], or its batch mean [1, Z].
        nats_per_dim: the floor, one for all dimensions or one each [Z]; 0 leaves the KL as it is.
        clamping: ``batch_mean`` compares the batch mean of each dimension with the floor, ``per_sample`` each entry.

    Returns:
        Scalar in nats.

    >>> kl = torch.tensor([[0.0, 1.0], [0.4, 3.0]])
    >>> round(free_bits(kl, 0.3, "batch_mean").item(), 6), round(free_bits(kl, 0.3, "per_sample").item(), 6)
    (2.3, 2.35)
    """
    if clamping == "batch_mean":
        return kl_BZ.mean(dim=0).clamp(min=nats_per_dim).sum()
    return kl_BZ.clamp(min=nats_per_dim).sum(dim=1).mean()


def calibrated_nats(mean_squared_error: Tensor) -> Tensor:
    """Negative Gaussian log likelihood per entry at the optimal shared variance, which is the mean squared error.

    -log N(x; x', s^2) averaged over entries is (log 2 pi s^2 + mse / s^2) / 2; at s^2 = mse this is
    (log(2 pi mse) + 1) / 2 (Rybkin, Daniilidis & Levine 2021, eq. 6).

    Args:
        mean_squared_error: positive scalar.

    Returns:
        Scalar in nats per entry.
    """
    return 0.5 * (torch.log(2.0 * torch.pi * mean_squared_error) + 1.0)
