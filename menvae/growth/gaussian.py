"""Likelihood of Gaussian models of the visits of several patients, and its maximum for many sets of patients at once.

Leaving out one patient at a time needs as many fits as there are patients. They differ in few terms of a sum, so they
are one batch: every fit has variance parameters of its own, and a weight of 0 for the patient that it leaves out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from menvae.growth import Floats, Visits

_TOLERANCE = 1e-9
"""Largest derivative of the negative log-likelihood at its minimum."""
_MAX_STEPS = 200
_FARTHEST = 2.0
"""Longest step of logarithms."""
TYPICAL_SIZE = math.log(10_000.0)
"""Log volume of 10 mL, to which the sizes of tumours are compared."""
_MOST_NUMBERS = 4_000_000
"""Numbers of all covariance matrices that are held at once."""


class Rows(NamedTuple):
    """Visits of N patients, padded to V visits.

    Attributes:
        years: [N, V].
        values: log volumes [N, V]; 0 where there is no visit.
        noise: variance of their errors that is known beforehand [N, V].
        size: mean log volume of the patient [N], relative to that of 10 mL.
        fixed: inputs of the fixed effects [N, V, P]; 0 where there is no visit.
        random: inputs of the random effects [N, V, Q]; 0 where there is no visit.
        seen: whether there is a visit, bool [N, V].

    ``values``, ``fixed`` and ``random`` may have a leading dimension L, if they differ between sets of patients.
    """

    years: Tensor
    values: Tensor
    noise: Tensor
    size: Tensor
    fixed: Tensor
    random: Tensor
    seen: Tensor


def padded_arrays(patients: Sequence[tuple[Floats, Floats, Floats]]) -> Rows:
    """Years, log volumes and known noise of patients, [V] each -> rows without inputs of effects."""
    most = max(len(years) for years, _, _ in patients)
    columns = [(*visits, np.ones(len(visits[0]))) for visits in patients]
    years, values, noise, seen = (
        torch.from_numpy(np.stack([np.pad(column, (0, most - len(column))) for column in every]))
        for every in zip(*columns, strict=True)
    )
    size = torch.tensor([values.mean() - TYPICAL_SIZE for _, values, _ in patients], dtype=torch.float64)
    nothing = years.new_zeros(*years.shape, 0)
    return Rows(years, values, noise, size, nothing, nothing, seen.bool())


def padded_rows(patients: Sequence[Visits]) -> Rows:
    """Visits of patients -> rows without inputs of effects."""
    return padded_arrays([(visits.years, visits.log_volume, visits.variance) for visits in patients])


Covariance = Callable[[Tensor, Rows], Tensor]
"""Variance parameters [L, K] and rows -> covariance of measured log volumes [L, N, V, V], without the known noise."""


@dataclass(frozen=True)
class Prior:
    """A normal prior of each variance parameter, which are logarithms or other unbounded numbers.

    Attributes:
        mean: [K].
        precision: 1 / variance [K]; 0 where there is no prior.
    """

    mean: Tensor
    precision: Tensor

    def penalty(self, parameters: Tensor) -> Tensor:
        """Parameters [L, K] -> negative log density, but for a constant [L]."""
        return 0.5 * (self.precision * (parameters - self.mean).square()).sum(dim=-1)


class Solution(NamedTuple):
    """Fixed effects at given variance parameters.

    Attributes:
        loss: negative log-likelihood [L]; infinite where a covariance is singular.
        coefficients: [L, P].
        factor: lower Cholesky factor of the inverse of their covariance [L, P, P].
    """

    loss: Tensor
    coefficients: Tensor
    factor: Tensor


@dataclass(frozen=True)
class Likelihood:
    """What is maximised.

    Attributes:
        covariance: of measured log volumes.
        prior: of its parameters.
        restricted: whether it is the likelihood of residuals (REML; Patterson & Thompson 1971) or of log volumes.
        of_fixed: prior of the fixed effects, [P] each; None: none.
    """

    covariance: Covariance
    prior: Prior
    restricted: bool
    of_fixed: Prior | None = None


def solve(parameters: Tensor, rows: Rows, likelihood: Likelihood, weights: Tensor) -> Solution:
    """Estimate the fixed effects by generalised least squares.

    Args:
        parameters: of the variance [L, K].
        rows: visits of N patients.
        likelihood: of them.
        weights: 1 for patients that count and 0 for others [L, N].
    """
    factor, singular = torch.linalg.cholesky_ex(padded(likelihood.covariance(parameters, rows), rows))
    inputs = torch.cat([rows.fixed, rows.values.unsqueeze(-1)], dim=-1)
    inputs = inputs.expand(len(parameters), *inputs.shape[-3:])
    white = torch.linalg.solve_triangular(factor, inputs, upper=False)
    moments = torch.einsum("ln,lnvp,lnvq->lpq", weights, white, white)
    num = rows.fixed.shape[-1]
    if likelihood.of_fixed is not None:
        expected = torch.cat([torch.eye(num, dtype=moments.dtype), likelihood.of_fixed.mean.unsqueeze(-1)], dim=1)
        moments = moments + (expected.mT * likelihood.of_fixed.precision) @ expected
    of_inputs, undetermined = torch.linalg.cholesky_ex(moments[:, :num, :num])
    coefficients = torch.cholesky_solve(moments[:, :num, num:], of_inputs).squeeze(-1)
    squares = moments[:, num, num] - (moments[:, :num, num] * coefficients).sum(dim=-1)
    logarithms = 2.0 * factor.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)
    count = (weights * rows.seen.sum(dim=-1)).sum(dim=-1)
    loss = (weights * logarithms).sum(dim=-1) + squares
    if likelihood.restricted:
        loss = loss + 2.0 * of_inputs.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)
        count = count - num
    loss = 0.5 * (loss + count * math.log(2.0 * math.pi))
    impossible = (singular != 0).any(dim=-1) | (undetermined != 0)
    return Solution(loss.masked_fill(impossible, math.inf), coefficients, of_inputs)


def padded(covariance: Tensor, rows: Rows) -> Tensor:
    """Add the known noise to a covariance [L, N, V, V], and put 1 and 0 in place of visits that do not exist."""
    both = rows.seen.unsqueeze(-1) & rows.seen.unsqueeze(-2)
    whole = covariance + torch.diag_embed(rows.noise)
    return torch.where(both, whole, torch.eye(rows.seen.shape[-1], dtype=whole.dtype))


class Estimate(NamedTuple):
    """Variance parameters with the smallest loss.

    Attributes:
        parameters: [L, K].
        hessian: second derivatives of the loss there [L, K, K].
    """

    parameters: Tensor
    hessian: Tensor


def estimate(rows: Rows, likelihood: Likelihood, start: Tensor, weights: Tensor) -> Estimate:
    """Estimate the variance parameters of each of L sets of patients.

    Args:
        rows: visits of N patients.
        likelihood: of them.
        start: [L, K].
        weights: 1 for patients that count and 0 for others [L, N].
    """
    at_once = max(1, _MOST_NUMBERS // (rows.seen.numel() * rows.seen.shape[-1]))
    if rows.fixed.ndim == 4:
        at_once = len(start)
    found = [
        _minimum(
            lambda parameters, some=some: (
                solve(parameters, rows, likelihood, some).loss + likelihood.prior.penalty(parameters)
            ),
            first,
        )
        for first, some in zip(start.split(at_once), weights.split(at_once), strict=True)
    ]
    return Estimate(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def _minimum(loss: Callable[[Tensor], Tensor], start: Tensor) -> Estimate:
    """Minimise by Newton's method each of L losses, of parameters [L, K], with steps that always descend."""
    parameters = start.detach().clone()
    value, gradient, hessian = _derivatives(loss, parameters)
    for _ in range(_MAX_STEPS):
        if gradient.abs().max() < _TOLERANCE:
            break
        curvature, axes = torch.linalg.eigh(hessian)
        curvature = curvature.abs().clamp(min=1e-6)
        step = -(axes @ ((axes.mT @ gradient.unsqueeze(-1)) / curvature.unsqueeze(-1))).squeeze(-1)
        step *= (_FARTHEST / step.norm(dim=-1, keepdim=True)).clamp(max=1.0)
        moved = _downhill(loss, parameters, step, value)
        if torch.equal(moved, parameters):
            break
        parameters = moved
        value, gradient, hessian = _derivatives(loss, parameters)
    return Estimate(parameters, hessian)


@torch.no_grad()
def _downhill(loss: Callable[[Tensor], Tensor], parameters: Tensor, step: Tensor, value: Tensor) -> Tensor:
    """Halve the steps that lead uphill; a step that never leads downhill is not taken."""
    slack = 1e-13 * (1.0 + value.abs())
    share = torch.ones_like(value)
    for _ in range(40):
        moved = parameters + share.unsqueeze(-1) * step
        uphill = ~(loss(moved) <= value + slack)
        if not uphill.any():
            return moved
        share = torch.where(uphill, 0.5 * share, share)
    return torch.where(uphill.unsqueeze(-1), parameters, moved)


def _derivatives(loss: Callable[[Tensor], Tensor], parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the losses [L], and their first and second derivatives [L, K] and [L, K, K]."""
    parameters = parameters.detach().requires_grad_()
    value = loss(parameters)
    (gradient,) = torch.autograd.grad(value.sum(), parameters, create_graph=True)
    second = [torch.autograd.grad(one.sum(), parameters, retain_graph=True)[0] for one in gradient.unbind(dim=-1)]
    hessian = torch.stack(second, dim=-1)
    return value.detach(), gradient.detach(), 0.5 * (hessian + hessian.mT)
