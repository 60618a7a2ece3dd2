"""Log densities of the aggregate posterior q(z) = 1/N sum_n q(z|n), estimated on a batch of M of the N subjects.

KL(q(z|n) || p(z)), averaged over n, is the sum of three parts (Chen et al. 2018, eq. 2), each a difference of log
densities that this module computes:

    mutual information   log q(z_i|i) - log q(z_i)
    total correlation    log q(z_i) - sum_k log q(z_ik)
    dimension-wise KL    sum_k log q(z_ik) - log p(z_i)

Both estimators are log q(z_i) = logsumexp_j (log q(z_i|j) + log w_ij), also per dimension, with one weight for the
subject that z_i was drawn from and one for all others (`Weights`). Both are biased at small M. For ``mws``, part of the
bias is simple: q(z_i) is too small by a factor between M (disjoint posteriors) and N (full overlap), so the total
correlation in d dimensions is too large by between (d - 1) log M and (d - 1) log N. Use its gradients, but never
threshold its value.

Shape suffixes: R rows of z, M subjects, Z dimensions.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from menvae.differentiation import first_order
from menvae.statistics.gaussian import LOG_2_PI, log_density

Estimator = Literal["mws", "mss"]

CHUNK_ENTRIES = {"cpu": 2**17, "cuda": 2**24}
"""Entries of R x M x (dimensions per chunk): fits the cache of a core, or fills a GPU."""


class Weights(NamedTuple):
    """Logarithms of the weights w_ij of a batch.

    Attributes:
        own: log weight of the subject that z_i was drawn from.
        other: log weight of every other subject.
    """

    own: float
    other: float


class LogDensities(NamedTuple):
    """Log densities of R latents in nats.

    Attributes:
        own: log q(z_i|i) [R], under the posterior that z_i was drawn from.
        joint: log q(z_i) [R].
        per_dimension: log q(z_ik) [R, Z].
    """

    own: Tensor
    joint: Tensor
    per_dimension: Tensor


def weights(estimator: Estimator, num_rows: int, num_subjects: int) -> Weights:
    """Return the weights of an estimator for a batch.

    ``mws``, minibatch-weighted sampling (Chen et al. 2018, section 3.1): 1 / (N M) for all.

    ``mss``, minibatch-stratified sampling (their appendix C.2): 1 / N for the own subject. Of the other M - 1, the
    paper gives one, picked at random, (N - M + 1) / (N (M - 1)) and the rest 1 / (M - 1). Here each gets the average
    over the pick, (N - 1) / (N (M - 1)): the same expectation with less variance, independent of the order of rows.
    (The authors' code puts these weights into columns instead of the diagonal, so it does not single out the own
    subject.)

    Args:
        estimator: ``mws`` or ``mss``.
        num_rows: M, at least 1; with a single row, both weights are 1 / N.
        num_subjects: N, at least M.

    >>> [round(math.exp(weight), 9) for weight in weights("mss", num_rows=5, num_subjects=10)]
    [0.1, 0.225]
    """
    if estimator == "mws":
        log_weight = -math.log(num_subjects * num_rows)
        return Weights(log_weight, log_weight)
    own = -math.log(num_subjects)
    if num_rows == 1:
        return Weights(own, own)
    return Weights(own, math.log((num_subjects - 1) / (num_subjects * (num_rows - 1))))


def log_densities_by_broadcasting(
    z_RZ: Tensor, mean_MZ: Tensor, logvar_MZ: Tensor, log_weights: Weights, first: int = 0
) -> LogDensities:
    """Reference implementation of `log_densities` with R x M x Z numbers in memory; same arguments."""
    pairwise_RMZ = log_density(z_RZ[:, None], mean_MZ[None], logvar_MZ[None])
    weight_RM = _weight_matrix(len(z_RZ), mean_MZ, log_weights, first)
    mine = slice(first, first + len(z_RZ))
    return LogDensities(
        log_density(z_RZ, mean_MZ[mine], logvar_MZ[mine]).sum(dim=1),
        torch.logsumexp(pairwise_RMZ.sum(dim=2) + weight_RM, dim=1),
        torch.logsumexp(pairwise_RMZ + weight_RM[:, :, None], dim=1),
    )


def _weight_matrix(num_latents: int, like_MZ: Tensor, log_weights: Weights, first: int) -> Tensor:
    matrix = like_MZ.new_full((num_latents, len(like_MZ)), log_weights.other)
    matrix.diagonal(first).fill_(log_weights.own)
    return matrix


def log_densities(
    z_RZ: Tensor, mean_MZ: Tensor, logvar_MZ: Tensor, log_weights: Weights, first: int = 0
) -> LogDensities:
    """Log densities of latents under their own posterior and the aggregate posterior of a batch.

    If R x M x Z exceeds `CHUNK_ENTRIES`, the dimensions are processed in chunks, and again for the closed-form
    gradient, so that the whole array is never in memory. Passing the R rows of each rank with the M rows of all ranks
    divides the work between ranks.

    Args:
        z_RZ: latents [R, Z], at least float32.
        mean_MZ: posterior means of the whole batch [M, Z].
        logvar_MZ: their log variances [M, Z].
        log_weights: weights of the estimator, from `weights`.
        first: row of ``mean_MZ`` that z_RZ[0] was drawn from; z_RZ[i] was drawn from row first + i.

    Returns:
        Tensors [R], [R], [R, Z]; differentiable once.
    """
    if len(z_RZ) * mean_MZ.numel() <= _chunk_entries(z_RZ):
        return log_densities_by_broadcasting(z_RZ, mean_MZ, logvar_MZ, log_weights, first)
    mine = slice(first, first + len(z_RZ))
    with torch.autocast(z_RZ.device.type, enabled=False):
        own = log_density(z_RZ, mean_MZ[mine], logvar_MZ[mine]).sum(dim=1)
        aggregate = _AggregateLogDensities.apply(z_RZ, mean_MZ, logvar_MZ, log_weights, first)  # type: ignore[no-untyped-call]
    return LogDensities(own, *aggregate)


class _AggregateLogDensities(torch.autograd.Function):
    """(z, mean, logvar) -> joint [R], per_dimension [R, Z].

    Precision e_jk = exp(-logvar_jk), scaled difference s_ijk = (z_ik - mean_jk) sqrt(e_jk / 2), log density
    l_ijk = -s_ijk^2 - (log 2 pi + logvar_jk) / 2. The derivative of a weighted sum of the outputs w.r.t. l_ijk is

        G_ijk = g_i softmax_j(sum_k l_ijk + log w_ij) + g_ik softmax_j(l_ijk + log w_ij),

    and those of l_ijk w.r.t. z_ik, mean_jk and logvar_jk are -s sqrt(2 e), s sqrt(2 e) and s^2 - 1/2.
    """

    @staticmethod
    def forward(
        ctx: Any, z_RZ: Tensor, mean_MZ: Tensor, logvar_MZ: Tensor, log_weights: Weights, first: int
    ) -> tuple[Tensor, Tensor]:
        bonus = log_weights.own - log_weights.other
        joint_RM = z_RZ.new_zeros(len(z_RZ), len(mean_MZ))
        joint_RM.diagonal(first).add_(bonus)
        per_dimension_ZR = z_RZ.new_empty(z_RZ.shape[1], len(z_RZ))
        for dims in _chunks(z_RZ, mean_MZ):
            density_kRM = _Chunk(z_RZ, mean_MZ, logvar_MZ, dims).density_kRM
            joint_RM += density_kRM.sum(dim=0)
            density_kRM.diagonal(first, dim1=1, dim2=2).add_(bonus)
            highest_kR1 = density_kRM.amax(dim=2, keepdim=True)
            sums_kR = density_kRM.sub_(highest_kR1).exp_().sum(dim=2)
            per_dimension_ZR[dims] = sums_kR.log_().add_(highest_kR1.squeeze(2))
        joint_R = torch.logsumexp(joint_RM, dim=1)
        ctx.save_for_backward(z_RZ, mean_MZ, logvar_MZ, joint_RM, joint_R, per_dimension_ZR)
        ctx.bonus, ctx.first = bonus, first
        return joint_R + log_weights.other, (per_dimension_ZR + log_weights.other).T

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient_R: Tensor, gradient_RZ: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        z_RZ, mean_MZ, logvar_MZ, joint_RM, joint_R, per_dimension_ZR = ctx.saved_tensors
        joint_share_RM = (joint_RM - joint_R[:, None]).exp_().mul_(gradient_R[:, None])
        gradients = torch.empty_like(z_RZ), torch.empty_like(mean_MZ), torch.empty_like(logvar_MZ)
        for dims in _chunks(z_RZ, mean_MZ):
            chunk = _Chunk(z_RZ, mean_MZ, logvar_MZ, dims)
            share_kRM = chunk.density_kRM
            share_kRM.diagonal(ctx.first, dim1=1, dim2=2).add_(ctx.bonus)
            share_kRM.sub_(per_dimension_ZR[dims][:, :, None]).exp_()
            flow_kRM = torch.addcmul(joint_share_RM, share_kRM, gradient_RZ[:, dims].T[:, :, None], out=share_kRM)
            for gradient, values_k in zip(gradients, chunk.pull_back(flow_kRM), strict=True):
                gradient[:, dims] = values_k.T
        return *gradients, None, None


class _Chunk:
    """Scaled differences and log densities of k dimensions, each [k, R, M]."""

    def __init__(self, z_RZ: Tensor, mean_MZ: Tensor, logvar_MZ: Tensor, dims: slice) -> None:
        centre_k1 = mean_MZ[:, dims].mean(dim=0)[:, None]
        self.z_kR = z_RZ[:, dims].T - centre_k1
        self.mean_kM = mean_MZ[:, dims].T - centre_k1
        logvar_kM = logvar_MZ[:, dims].T.contiguous()
        self.scale_kM = torch.exp(-0.5 * logvar_kM).mul_(math.sqrt(0.5))
        self.scaled_kRM = (self.z_kR[:, :, None] - self.mean_kM[:, None, :]).mul_(self.scale_kM[:, None, :])
        constant_kM = -0.5 * (LOG_2_PI + logvar_kM)
        self.density_kRM = torch.addcmul(constant_kM[:, None, :], self.scaled_kRM, self.scaled_kRM, value=-1.0)

    def pull_back(self, flow_kRM: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Backpropagate from the densities to z [k, R], mean and logvar [k, M]; overwrites the chunk.

        sum_i G s^2 is a matrix product, sqrt(e / 2) (sum_i G s z - mean sum_i G s): a single difference of centred
        numbers.
        """
        ones_k1R = torch.ones_like(self.z_kR)[:, None, :]
        total_kM = torch.bmm(ones_k1R, flow_kRM).squeeze(1)
        weighted_kRM = self.scaled_kRM.mul_(flow_kRM)  # G s
        by_z_kR = torch.bmm(weighted_kRM, self.scale_kM[:, :, None]).squeeze(2).mul_(-2.0)
        sums_k2M = torch.bmm(torch.cat([ones_k1R, self.z_kR[:, None, :]], dim=1), weighted_kRM)
        by_mean_kM = 2.0 * self.scale_kM * sums_k2M[:, 0]
        by_logvar_kM = self.scale_kM * (sums_k2M[:, 1] - self.mean_kM * sums_k2M[:, 0]) - 0.5 * total_kM
        return by_z_kR, by_mean_kM, by_logvar_kM


def _chunk_entries(z_RZ: Tensor) -> int:
    return CHUNK_ENTRIES.get(z_RZ.device.type, CHUNK_ENTRIES["cuda"])


def _chunks(z_RZ: Tensor, mean_MZ: Tensor) -> list[slice]:
    """Return slices of the dimensions such that a chunk has at most `CHUNK_ENTRIES` entries, or one dimension."""
    step = max(1, _chunk_entries(z_RZ) // (len(z_RZ) * len(mean_MZ)))
    return [slice(start, start + step) for start in range(0, z_RZ.shape[1], step)]
