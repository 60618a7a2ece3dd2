"""Densities, draws and products of diagonal Gaussians, and free bits, a lower bound on a divergence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

FreeBitsClamping = Literal["batch_mean", "per_sample"]


LOG_2_PI = math.log(2.0 * math.pi)


def log_density(x: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """Log N(x; mean, exp(logvar)) of every entry, in nats: -(log 2 pi + logvar + (x - mean)^2 / exp(logvar)) / 2.

    The square is not expanded into x^2 - 2 x mean + mean^2, whose terms cancel: at a log variance of -6 and a mean of
    20, float32 would then be off by more than 10 nats over 128 dimensions.

    Args:
        x: any shape, at least float32.
        mean: broadcastable to ``x``.
        logvar: broadcastable to ``x``.

    >>> log_density(torch.tensor(20.1), torch.tensor(20.0), torch.tensor(-6.0))
    tensor(0.0639)
    """
    return -0.5 * (LOG_2_PI + logvar + (x - mean).square() * torch.exp(-logvar))


def standard_log_density(x: Tensor) -> Tensor:
    """Log N(x; 0, 1) of every entry, in nats."""
    return -0.5 * (LOG_2_PI + x.square())


def draws_by_name(mean: Tensor, logvar: Tensor, names: Sequence[str], num: int, seed: int = 0) -> Tensor:
    """Return draws of N(mean, exp(logvar)) that depend on nothing but the name of a row, its Gaussian, and the seed.

    Args:
        mean: [B, Z].
        logvar: [B, Z].
        names: name of each row.
        num: K, number of draws of a row.
        seed: seed of the draws.

    Returns:
        [B, K, Z], on the device of ``mean``.

    >>> one, both = (draws_by_name(torch.zeros(n, 2), torch.zeros(n, 2), ["b", "a"][-n:], 3) for n in (1, 2))
    >>> torch.equal(one[0], both[1])
    True
    """
    noise = np.stack(
        [
            np.random.default_rng([seed, *name.encode()]).standard_normal((num, mean.shape[1]), dtype=np.float32)
            for name in names
        ]
    )
    return mean[:, None] + torch.exp(0.5 * logvar)[:, None] * torch.from_numpy(noise).to(mean.device)


def free_bits(kl_BZ: Tensor, nats_per_dim: float | Tensor, clamping: FreeBitsClamping) -> Tensor:
    """Sum over dimensions of max(KL, floor), averaged over the batch (Kingma et al. 2016, eq. 15).

    Args:
        kl_BZ: KL per subject and dimension in nats [B, Z], or its batch mean [1, Z].
        nats_per_dim: floor of all dimensions, or of each [Z]; 0 does not change the KL.
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
    """Negative Gaussian log likelihood per entry at the optimal shared variance, the mean squared error.

    -log N(x; x', s^2) averaged over entries is (log 2 pi s^2 + mse / s^2) / 2; at s^2 = mse this is
    (log(2 pi mse) + 1) / 2 (Rybkin, Daniilidis & Levine 2021, eq. 6).

    Args:
        mean_squared_error: positive, of any shape.

    Returns:
        Nats per entry, of the same shape.
    """
    return 0.5 * (torch.log(2.0 * torch.pi * mean_squared_error) + 1.0)


def product_with_prior(mean_BMZ: Tensor, logvar_BMZ: Tensor, available_BM: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return mean and log variance of the renormalised product of M Gaussians and the prior N(0, I).

    Precisions add up, and the mean is the precision-weighted mean of the factors (Wu & Goodman 2018, section 2.2).
    Precisions are summed by log-sum-exp, so that no log variance overflows.

    Args:
        mean_BMZ: means of the factors [B, M, Z].
        logvar_BMZ: log variances of the factors [B, M, Z].
        available_BM: factors to include, bool [B, M]; None: all. Without any, the product is the prior.

    Returns:
        Mean [B, Z] and log variance [B, Z], float32.

    >>> mean, logvar = product_with_prior(torch.tensor([[[4.0], [0.0]]]), torch.zeros(1, 2, 1), None)
    >>> round(mean.item(), 4), round(logvar.exp().item(), 4)
    (1.3333, 0.3333)
    """
    with torch.autocast(mean_BMZ.device.type, enabled=False):
        mean, log_precision = mean_BMZ.float(), -logvar_BMZ.float()
        if available_BM is not None:
            missing = ~available_BM.unsqueeze(2)
            mean, log_precision = mean.masked_fill(missing, 0.0), log_precision.masked_fill(missing, -torch.inf)
        prior = torch.zeros_like(mean[:, :1])
        log_precision = torch.cat([log_precision, prior], dim=1)
        weights = log_precision.softmax(dim=1)
        return (weights[:, :-1] * mean).sum(dim=1), -log_precision.logsumexp(dim=1)
