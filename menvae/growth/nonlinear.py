"""Growth models whose curves are not linear in what differs between patients."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from menvae.growth import FittedGrowth, Floats, Forecast, GrowthModel, Visits
from menvae.growth.gaussian import (
    Likelihood,
    Prior,
    Rows,
    at_nodes,
    conditioned,
    derivatives,
    estimate,
    newton_step,
    padded,
    padded_arrays,
    padded_rows,
    slopes,
    solve,
)
from menvae.growth.linear import Unbounded, nodes_about

_log = logging.getLogger(__name__)

_TOLERANCE = 1e-9
"""Largest change of an effect in the last iteration."""
_NEARBY = 1e-2
"""The same where it is only a start."""
_PLAIN_TURNS = 30
_MAX_ITERATIONS = 200
_MEMORY = 6
"""Turns that are mixed."""
_LARGEST_SHARE = 10.0
"""Of a turn that is mixed; beyond it, a set does without."""


class NonlinearGrowth(GrowthModel):
    """Base class of curves with coefficients of each patient: those of the population plus normal random effects.

    Estimated by alternating between the modes of the effects and a linear mixed model of the curves linearised there
    (Lindstrom & Bates 1990), as nlme does in R.
    """

    random: tuple[int, ...]
    """Coefficients that differ between patients."""

    def __init__(
        self,
        coefficients: Sequence[Unbounded],
        variances: Sequence[Unbounded],
        *,
        use_priors: bool,
        average: bool,
    ) -> None:
        """Say what is expected.

        Args:
            coefficients: mean and standard deviation of the prior of each coefficient of the population.
            variances: the same of the logarithms of the standard deviations of `random`, and of the noise.
            use_priors: whether these are priors, or only where the search starts.
            average: whether forecasts average over what is not known about the variances.
        """
        of_fixed, prior = (Prior.of(expected, use_priors=use_priors) for expected in (coefficients, variances))
        self.likelihood = Likelihood(self.covariance, prior, restricted=True, of_fixed=of_fixed)
        self.average = average

    def curve(self, coefficients: Tensor, years: Tensor) -> Tensor:
        """Coefficients [..., P], years [..., V] -> log volumes [..., V]."""
        raise NotImplementedError

    def covariance(self, parameters: Tensor, rows: Rows) -> Tensor:
        """Logarithms of standard deviations [L, K] -> [L, N, V, V]."""
        variances = (2.0 * parameters).exp()
        of_patients = torch.einsum("lnvq,lq,lnwq->lnvw", rows.random, variances[:, :-1], rows.random)
        noise = variances[:, -1, None, None, None]
        return of_patients + noise * torch.eye(rows.seen.shape[-1], dtype=noise.dtype)

    # --- what curves get ----------------------------------------------------------------------------------------------

    def fit(self, patients: Sequence[Visits]) -> FittedGrowth:
        """Estimate the population."""
        rows, everyone = padded_rows(patients), torch.ones(1, len(patients), dtype=torch.float64)
        (fitted,) = self._fitted(rows, self._converged(rows, everyone, self._start(rows)), everyone)
        return fitted

    def fit_without_each(self, patients: Sequence[Visits]) -> list[FittedGrowth]:
        """Estimate the population without each of its patients, all at once and from the estimate with all of them."""
        rows, num = padded_rows(patients), len(patients)
        everyone = torch.ones(1, num, dtype=torch.float64)
        with_all = self._converged(rows, everyone, self._start(rows), tolerance=_NEARBY)
        weights = 1.0 - torch.eye(num, dtype=torch.float64)
        start = _State(*(part.expand(num, *part.shape[1:]) for part in with_all))
        return list(self._fitted(rows, self._accelerated(rows, weights, start), weights))

    def linearised(self, rows: Rows, coefficients: Tensor) -> tuple[Rows, Tensor]:
        """Return the rows of the linear model that touches the curves, and the curves [L, N, V].

        Args:
            rows: visits of N patients.
            coefficients: of each patient [L, N, P].
        """
        seen = rows.seen
        at = coefficients.detach().requires_grad_()
        with torch.enable_grad():
            curves = self.curve(at, rows.years)
        inputs = torch.stack(slopes(curves, at), dim=-1) * seen.unsqueeze(-1)
        curves = curves.detach()
        values = (rows.values - curves + (inputs @ coefficients.unsqueeze(-1)).squeeze(-1)) * seen
        return rows._replace(values=values, fixed=inputs, random=inputs[..., list(self.random)]), curves

    def of_patients(self, population: Tensor, effects: Tensor) -> Tensor:
        """Coefficients of the population [L, P] and effects [L, N, Q] -> coefficients of the patients [L, N, P]."""
        every = population.unsqueeze(1).expand(-1, effects.shape[1], -1).clone()
        every[..., list(self.random)] += effects
        return every

    def modes(self, rows: Rows, parameters: Tensor, population: Tensor) -> Tensor:
        """Return the likeliest effects of each patient of linearised rows [L, N, Q]; one step of Gauss and Newton."""
        variances = (2.0 * parameters[:, None, None, :-1]).exp()
        surprise = rows.values - (rows.fixed @ population[:, None, :, None]).squeeze(-1)
        whole = padded(self.covariance(parameters, rows), rows)
        weighted = torch.linalg.solve(whole, surprise.unsqueeze(-1))
        effects: Tensor = ((rows.random * variances).mT @ weighted).squeeze(-1)
        return effects

    def likeliest(self, rows: Rows, parameters: Tensor, population: Tensor) -> Tensor:
        """Return the likeliest coefficients of each patient in L populations [L, N, P].

        Args:
            rows: visits of N patients.
            parameters: of the variance [L, K].
            population: coefficients [L, P].
        """
        effects = torch.zeros(len(parameters), len(rows.seen), len(self.random), dtype=torch.float64)
        for _ in range(_MAX_ITERATIONS):
            linear, _ = self.linearised(rows, self.of_patients(population, effects))
            moved = self.modes(linear, parameters, population)
            change, effects = float((moved - effects).abs().max()), moved
            if change < _TOLERANCE:
                break
        return self.of_patients(population, effects)

    def _start(self, rows: Rows) -> _State:
        assert self.likelihood.of_fixed is not None
        effects = torch.zeros(1, len(rows.seen), len(self.random), dtype=torch.float64)
        return _State(self.likelihood.of_fixed.mean.unsqueeze(0), self.likelihood.prior.mean.unsqueeze(0), effects)

    def _converged(self, rows: Rows, weights: Tensor, state: _State, tolerance: float = _TOLERANCE) -> _State:
        """Alternate; cohorts with which that is slow end with `_accelerated`."""
        for _ in range(_PLAIN_TURNS):
            linear, _ = self.linearised(rows, self.of_patients(state.population, state.effects))
            parameters = estimate(linear, self.likelihood, state.parameters, weights).parameters
            population = solve(parameters, linear, self.likelihood, weights).coefficients
            moved = _State(population, parameters, self.modes(linear, parameters, population))
            change, state = moved.distance(state), moved
            if change < tolerance:
                return state
        return self._accelerated(rows, weights, state, tolerance)

    def _accelerated(self, rows: Rows, weights: Tensor, state: _State, tolerance: float = _TOLERANCE) -> _State:
        """Find what `_converged` finds, from nearby: with one step of Newton a turn, and mixed turns.

        Each set mixes its last turns by Anderson's method (Walker & Ni 2011, SIAM J Numer Anal 49:1715).
        """
        turns = _Mixing()
        for _ in range(_MAX_ITERATIONS):
            linear, _ = self.linearised(rows, self.of_patients(state.population, state.effects))
            at = derivatives(state.parameters, linear, self.likelihood, weights)
            parameters = state.parameters + newton_step(at)
            moved = _State(at.coefficients, parameters, self.modes(linear, parameters, at.coefficients))
            change = moved.distance(state)
            if change < tolerance:
                return moved
            state = moved.like(turns.mixed(state.flat(), moved.flat()))
        _log.warning("the estimate of a growth model still changes by %.1g after %d turns", change, _MAX_ITERATIONS)
        return state

    def _fitted(self, rows: Rows, state: _State, weights: Tensor) -> Sequence[FittedNonlinear]:
        linear, _ = self.linearised(rows, self.of_patients(state.population, state.effects))
        hessian = derivatives(state.parameters, linear, self.likelihood, weights).hessian
        nodes = nodes_about(state.parameters, hessian) if self.average else state.parameters.unsqueeze(1)
        return [FittedNonlinear(self, *population) for population in at_nodes(nodes, linear, self.likelihood, weights)]


class _State(NamedTuple):
    """Where an estimate is: coefficients of the population [L, P], variances [L, K] and effects [L, N, Q]."""

    population: Tensor
    parameters: Tensor
    effects: Tensor

    def distance(self, other: _State) -> float:
        """Return the largest difference of a number."""
        return max(float((mine - theirs).abs().max()) for mine, theirs in zip(self, other, strict=True))

    def flat(self) -> Tensor:
        """Return all numbers of each set [L, P + K + N Q]."""
        return torch.cat([self.population, self.parameters, self.effects.flatten(1)], dim=1)

    def like(self, flat: Tensor) -> _State:
        """Return the state with the numbers of ``flat``."""
        sizes = [self.population.shape[1], self.parameters.shape[1], self.effects[0].numel()]
        population, parameters, effects = torch.split(flat, sizes, dim=1)
        return _State(population, parameters, effects.view_as(self.effects))


class _Mixing:
    """Anderson's method for L fixed points at once."""

    def __init__(self) -> None:
        self.steps: list[Tensor] = []
        self.ends: list[Tensor] = []

    def mixed(self, before: Tensor, after: Tensor) -> Tensor:
        """Take the last turn [L, D] -> [L, D], and return where to begin the next one."""
        self.steps, self.ends = [*self.steps, after - before][-_MEMORY:], [*self.ends, after][-_MEMORY:]
        if len(self.steps) == 1:
            return after
        steps, ends = torch.stack(self.steps, dim=-1).diff(dim=-1), torch.stack(self.ends, dim=-1).diff(dim=-1)
        shares = torch.linalg.lstsq(steps, self.steps[-1].unsqueeze(-1)).solution
        found = after - (ends @ shares).squeeze(-1)
        far = shares.abs().amax(dim=1) > _LARGEST_SHARE
        return torch.where(far, after, found)


@dataclass(frozen=True)
class FittedNonlinear:
    """A population.

    Attributes:
        model: of it.
        nodes: logarithms of the variance parameters [M, K], all as likely.
        population: its coefficients with each of them [M, P].
        spread: their covariance [M, P, P].
    """

    model: NonlinearGrowth
    nodes: Tensor
    population: Tensor
    spread: Tensor

    def predict(self, seen: Visits, days: Floats) -> Forecast:
        """Forecast with the likeliest effects of the patient, about which the curve is taken as linear."""
        model, num = self.model, len(seen)
        coefficients = model.likeliest(padded_rows([seen]), self.nodes, self.population)
        years = np.concatenate([seen.years, seen.years_of(days)])
        noise = np.concatenate([seen.variance, np.full(len(days), seen.variance.mean())])
        both = padded_arrays([(years, np.zeros(len(years)), noise)])
        linear, curves = model.linearised(both, coefficients)
        cov = padded(model.covariance(self.nodes, linear), linear)[:, 0]
        _, variance = conditioned(cov, linear.fixed[:, 0], num, self.spread)
        mean = curves[:, 0, num:]
        total = variance.mean(dim=0) + mean.var(dim=0, correction=0)
        return Forecast(mean.mean(dim=0).numpy(), total.numpy())
