"""Likelihood of Gaussian models of the visits of several patients, and its maximum for many sets of patients at once.

Leaving out one patient at a time needs as many fits as there are patients. They differ in few terms of a sum, so they
are one batch: every fit has variance parameters of its own, and a weight of 0 for the patient that it leaves out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from menvae.errors import UserError
from menvae.growth import Floats, Visits

_TOLERANCE = 1e-9
"""Largest derivative of the negative log-likelihood, or step of logarithms, at its minimum."""
NEARBY = 1e-3
"""The same where it is only a start."""
_ROUNDING = 1e-11
"""Of a loss, relative to its size: log volumes are far from 0."""
_SMALL_STEP = 1e-6
"""A step that changes no second derivative."""
_MAX_STEPS = 200
_MAX_HALVINGS = 20
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

    @classmethod
    def of(cls, expected: Sequence[tuple[float, float]], *, use_priors: bool) -> Prior:
        """Make the prior of means and standard deviations [K]; without priors, only the means count, as a start."""
        mean, spread = (torch.tensor(column, dtype=torch.float64) for column in zip(*expected, strict=True))
        return cls(mean, spread**-2 if use_priors else torch.zeros_like(spread))

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
    groups = [
        _whitened(likelihood.covariance(parameters, some), some, counting)
        for some, counting in by_visits(rows, weights)
    ]
    return _solved(groups, likelihood)


class _White(NamedTuple):
    """Patients of one group, whose covariance matrices are divided out.

    Attributes:
        rows: of the patients.
        weights: [L, N].
        factor: lower Cholesky factors of their covariances [L, N, V, V].
        singular: whether there is none [L].
        inputs: inputs of the fixed effects, and log volumes [L, N, V, P + 1].
        moments: of ``inputs`` over ``factor``, summed over patients [L, P + 1, P + 1].
    """

    rows: Rows
    weights: Tensor
    factor: Tensor
    singular: Tensor
    inputs: Tensor
    moments: Tensor


def by_visits(rows: Rows, weights: Tensor) -> list[tuple[Rows, Tensor]]:
    """Separate patients with few visits from others, which saves their padding, where there are many sets.

    Args:
        rows: visits of N patients.
        weights: of the patients in L sets [L, N].
    """
    counts = rows.seen.sum(dim=-1)
    few = counts <= counts.median()
    if len(weights) == 1 or few.all():
        return [(rows, weights)]
    return [(_part(rows, some, int(counts[some].max())), weights[:, some]) for some in (few, ~few)]


def _part(rows: Rows, chosen: Tensor, num: int) -> Rows:
    """Return the first ``num`` visits of the patients that are chosen, bool [N]."""
    two = {name: getattr(rows, name)[..., chosen, :num] for name in ("years", "values", "noise", "seen")}
    three = {name: getattr(rows, name)[..., chosen, :num, :] for name in ("fixed", "random")}
    return Rows(size=rows.size[chosen], **two, **three)


def _whitened(covariance: Tensor, rows: Rows, weights: Tensor) -> _White:
    factor, singular = _cholesky(padded(covariance, rows))
    values = rows.values.unsqueeze(-1)
    inputs = torch.cat([rows.fixed.expand(*values.shape[:-1], -1), values], dim=-1)
    inputs = inputs.expand(len(covariance), *inputs.shape[-3:])
    white = torch.linalg.solve_triangular(factor, inputs, upper=False)
    moments = (white * weights[..., None, None]).flatten(1, 2).mT @ white.flatten(1, 2)
    return _White(rows, weights, factor, singular.any(dim=-1), inputs, moments)


def _cholesky(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Lower Cholesky factors [..., M, M], with 1 in place of those that do not exist, and whether they do not [...]."""
    factor, failed = torch.linalg.cholesky_ex(matrices)
    singular = failed != 0
    return torch.where(singular[..., None, None], torch.eye(matrices.shape[-1], dtype=factor.dtype), factor), singular


def _solved(groups: Sequence[_White], likelihood: Likelihood) -> Solution:
    moments = torch.stack([group.moments for group in groups]).sum(dim=0)
    num = moments.shape[-1] - 1
    if likelihood.of_fixed is not None:
        expected = torch.cat([torch.eye(num, dtype=moments.dtype), likelihood.of_fixed.mean.unsqueeze(-1)], dim=1)
        moments = moments + (expected.mT * likelihood.of_fixed.precision) @ expected
    of_inputs, impossible = _cholesky(moments[:, :num, :num])
    coefficients = torch.cholesky_solve(moments[:, :num, num:], of_inputs).squeeze(-1)
    squares = moments[:, num, num] - (moments[:, :num, num] * coefficients).sum(dim=-1)
    loss = squares
    for group in groups:
        logarithms = 2.0 * group.factor.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)
        count = group.rows.seen.sum(dim=-1)
        loss = loss + (group.weights * (logarithms + count.double() * math.log(2.0 * math.pi))).sum(dim=-1)
        impossible = impossible | group.singular
    if likelihood.restricted:
        loss = loss + 2.0 * of_inputs.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1) - num * math.log(2.0 * math.pi)
    return Solution((0.5 * loss).masked_fill(impossible, math.inf), coefficients, of_inputs)


class Derivatives(NamedTuple):
    """Of the loss with the prior.

    Attributes:
        loss: [L].
        gradient: [L, K].
        hessian: [L, K, K].
        coefficients: fixed effects [L, P].
    """

    loss: Tensor
    gradient: Tensor
    hessian: Tensor
    coefficients: Tensor


@torch.no_grad()
def derivatives(parameters: Tensor, rows: Rows, likelihood: Likelihood, weights: Tensor) -> Derivatives:
    """Differentiate the loss, plus the penalty of its prior, by the variance parameters; the arguments are `solve`'s.

    With A the inverse of a covariance S, B = A [X y], v = (-coefficients, 1), and W = v v' plus the covariance of the
    coefficients where the likelihood is restricted, the derivative is half the trace of (A - B W B') dS (Lindstrom &
    Bates 1988, JASA 83:1014).
    """
    parameters = parameters.detach().requires_grad_()
    separate = by_visits(rows, weights)
    with torch.enable_grad():
        covariances = [likelihood.covariance(parameters, some) for some, _ in separate]
    groups = [_whitened(cov.detach(), *group) for cov, group in zip(covariances, separate, strict=True)]
    solution = _solved(groups, likelihood)
    num, count = solution.coefficients.shape[-1], parameters.shape[-1]
    contrast = torch.cat([-solution.coefficients, torch.ones_like(solution.loss).unsqueeze(-1)], dim=-1)
    spread = torch.cholesky_inverse(solution.factor)
    weight = contrast.unsqueeze(-1) * contrast.unsqueeze(-2)
    if likelihood.restricted:
        weight[:, :num, :num] += spread
    gradient = likelihood.prior.precision * (parameters - likelihood.prior.mean)
    hessian = torch.diag(likelihood.prior.precision).expand(len(parameters), -1, -1).clone()
    between = parameters.new_zeros(len(parameters), count, num + 1, num + 1)
    for covariance, group in zip(covariances, groups, strict=True):
        inverse = torch.cholesky_inverse(group.factor)
        by_input = inverse @ group.inputs
        scale = group.weights[..., None, None]
        trace = scale * (inverse - by_input @ weight.unsqueeze(1) @ by_input.mT)
        slope, bend = _of_trace(covariance, parameters, trace * _pairs(group.rows))
        gradient, hessian = gradient + 0.5 * slope, hessian + 0.5 * bend
        change = torch.stack(slopes(covariance, parameters), dim=1) * _pairs(group.rows)
        relative = inverse.unsqueeze(1) @ change
        changed = change @ by_input.unsqueeze(1)
        between += torch.einsum("lnvp,lknvq->lkpq", scale * by_input, changed)
        weighted = scale.unsqueeze(1) * (inverse.unsqueeze(1) @ changed @ weight[:, None, None])
        flat = (scale.unsqueeze(1) * relative).flatten(2) @ relative.mT.flatten(2).mT
        hessian = hessian + weighted.flatten(2) @ changed.flatten(2).mT - 0.5 * flat
    by_contrast = (between @ contrast[:, None, :, None]).squeeze(-1)[..., :num]
    hessian = hessian - by_contrast @ spread @ by_contrast.mT
    if likelihood.restricted:
        of_inputs = spread.unsqueeze(1) @ between[..., :num, :num]
        hessian = hessian - 0.5 * of_inputs.flatten(2) @ of_inputs.mT.flatten(2).mT
    loss = solution.loss + likelihood.prior.penalty(parameters)
    return Derivatives(loss.detach(), gradient.detach(), 0.5 * (hessian + hessian.mT), solution.coefficients)


@torch.enable_grad()
def slopes(value: Tensor, at: Tensor) -> list[Tensor]:
    """Differentiate values by each of the K numbers [..., K] that they were computed from; each has the value's shape.

    Every value must depend on one row of K numbers alone. Twice in reverse: forward derivatives of PyTorch import its
    compiler, which takes seconds.
    """
    probe = torch.zeros_like(value, requires_grad=True)
    (back,) = torch.autograd.grad(value, at, probe, create_graph=True)
    return [torch.autograd.grad(one.sum(), probe, retain_graph=True)[0] for one in back.unbind(dim=-1)]


@torch.enable_grad()
def _of_trace(covariance: Tensor, parameters: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """First and second derivatives of the trace of a constant factor [L, N, V, V] times the covariance."""
    (slope,) = torch.autograd.grad(covariance, parameters, factor, create_graph=True)
    bends = [torch.autograd.grad(one.sum(), parameters, retain_graph=True)[0] for one in slope.unbind(dim=-1)]
    return slope.detach(), torch.stack(bends, dim=-1)


def padded(covariance: Tensor, rows: Rows) -> Tensor:
    """Add the known noise to a covariance [L, N, V, V], and put 1 and 0 in place of visits that do not exist."""
    whole = covariance + torch.diag_embed(rows.noise)
    return torch.where(_pairs(rows), whole, torch.eye(rows.seen.shape[-1], dtype=whole.dtype))


def _pairs(rows: Rows) -> Tensor:
    return rows.seen.unsqueeze(-1) & rows.seen.unsqueeze(-2)


def conditioned(covariance: Tensor, fixed: Tensor, num: int, spread: Tensor) -> tuple[Tensor, Tensor]:
    """Condition the visits of a patient on the first ones, by universal kriging.

    Args:
        covariance: of measured log volumes [M, V, V], one for each population.
        fixed: inputs of the fixed effects [V, P] or [M, V, P].
        num: number of visits that are known.
        spread: covariance of the fixed effects [M, P, P].

    Returns:
        What surprises at known visits add to the others [M, V - num, num], and the variance of these [M, V - num].
    """
    known, across = covariance[:, :num, :num], covariance[:, num:, :num]
    new = covariance[:, num:, num:].diagonal(dim1=-2, dim2=-1)
    gain = torch.linalg.solve(known, across.mT).mT
    unexplained = fixed[..., num:, :] - gain @ fixed[..., :num, :]
    of_population = ((unexplained @ spread) * unexplained).sum(dim=-1)
    return gain, new - (gain * across).sum(dim=-1) + of_population


def at_nodes(
    nodes: Tensor, rows: Rows, likelihood: Likelihood, weights: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Estimate the fixed effects of each of L sets with several variance parameters.

    Args:
        nodes: variance parameters [L, M, K].
        rows: visits of N patients.
        likelihood: of them.
        weights: 1 for patients that count and 0 for others [L, N].

    Yields:
        Of each set: parameters [M, K], fixed effects [M, P] and their covariance [M, P, P].
    """
    num = nodes.shape[1]
    if rows.fixed.ndim == 4:
        names = ("values", "fixed", "random")
        rows = rows._replace(**{name: getattr(rows, name).repeat_interleave(num, dim=0) for name in names})
    at = solve(nodes.flatten(0, 1), rows, likelihood, weights.repeat_interleave(num, dim=0))
    spread = torch.cholesky_inverse(at.factor)
    yield from zip(nodes, torch.split(at.coefficients, num), torch.split(spread, num), strict=True)


class Estimate(NamedTuple):
    """Variance parameters with the smallest loss.

    Attributes:
        parameters: [L, K].
        hessian: second derivatives of the loss there [L, K, K].
    """

    parameters: Tensor
    hessian: Tensor


def estimate(
    rows: Rows, likelihood: Likelihood, start: Tensor, weights: Tensor, tolerance: float = _TOLERANCE
) -> Estimate:
    """Estimate the variance parameters of each of L sets of patients.

    Args:
        rows: visits of N patients.
        likelihood: of them.
        start: [L, K].
        weights: 1 for patients that count and 0 for others [L, N].
        tolerance: largest derivative of the loss, or step of a parameter, at the end.

    Raises:
        UserError: the visits do not determine the fixed effects.
    """
    at_once = max(1, _MOST_NUMBERS // (rows.seen.numel() * rows.seen.shape[-1]))
    if rows.fixed.ndim == 4:
        at_once = len(start)
    differentiate = partial(derivatives, rows=rows, likelihood=likelihood)
    return minimum(differentiate, start, weights, at_once=at_once, tolerance=tolerance)


def minimum(
    differentiate: Callable[..., Derivatives],
    start: Tensor,
    weights: Tensor,
    *,
    at_once: int,
    tolerance: float = _TOLERANCE,
    rounding: float = _ROUNDING,
) -> Estimate:
    """Minimise by Newton's method the loss of each of L sets, with steps that always descend.

    Args:
        differentiate: parameters [L, K] and ``weights=`` [L, N] -> loss and its derivatives.
        start: [L, K].
        weights: 1 for patients that count and 0 for others [L, N].
        at_once: sets in one piece.
        tolerance: largest derivative of the loss, or step of a parameter, at the end.
        rounding: of losses, relative to their size: no rise of so much is one.

    Raises:
        UserError: a loss has no value there, so that the visits do not determine the parameters.
    """
    found = [
        _minimum(partial(differentiate, weights=some), first, weights.shape[1], tolerance, rounding)
        for first, some in zip(torch.split(start, at_once), torch.split(weights, at_once), strict=True)
    ]
    return Estimate(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def _minimum(
    differentiate: Callable[[Tensor], Derivatives], start: Tensor, num_patients: int, tolerance: float, rounding: float
) -> Estimate:
    parameters = start.detach().clone()
    at = differentiate(parameters)
    _check_determined(at, num_patients)
    for _ in range(_MAX_STEPS):
        step = newton_step(at)
        if torch.minimum(at.gradient.abs().amax(dim=-1), step.abs().amax(dim=-1)).max() < tolerance:
            break
        moved = differentiate(parameters + step)
        for _ in range(_MAX_HALVINGS):
            uphill = ~(moved.loss <= at.loss + rounding * (1.0 + at.loss.abs()))
            if not uphill.any():
                break
            step = torch.where(uphill.unsqueeze(-1), 0.5 * step, step)
            moved = differentiate(parameters + step)
        parameters, at = parameters + step, moved
    _check_determined(at, num_patients)
    last = newton_step(at)
    return Estimate(parameters + last.masked_fill(last.abs() > _SMALL_STEP, 0.0), at.hessian)


def _check_determined(at: Derivatives, num_patients: int) -> None:
    if not (at.loss.isfinite().all() and at.hessian.isfinite().all() and at.gradient.isfinite().all()):
        raise UserError(
            f"growth: the visits of {num_patients} patients do not determine the growth model; set "
            "growth.use_priors=true with priors that fit tumours, or choose a model with fewer parameters"
        )


def newton_step(at: Derivatives) -> Tensor:
    """Return steps of the parameters that lead downhill, and not too far [L, K]."""
    curvature, axes = torch.linalg.eigh(at.hessian)
    curvature = curvature.abs().clamp(min=1e-6)
    step = -(axes @ ((axes.mT @ at.gradient.unsqueeze(-1)) / curvature.unsqueeze(-1))).squeeze(-1)
    shortened: Tensor = step * (_FARTHEST / step.norm(dim=-1, keepdim=True)).clamp(max=1.0)
    return shortened
