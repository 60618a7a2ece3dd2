"""Growth models whose curves are not linear in what differs between patients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from menvae.growth import FittedGrowth, Floats, Forecast, GrowthModel, Visits
from menvae.growth.gaussian import Likelihood, Prior, Rows, estimate, padded, padded_arrays, padded_rows, solve
from menvae.growth.linear import Unbounded, nodes_about
from menvae.growth.visits import DAYS_PER_YEAR

_TOLERANCE = 1e-9
"""Largest change of an effect in the last iteration."""
_MAX_ITERATIONS = 500


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
        restricted: bool = True,
    ) -> None:
        """Say what is expected.

        Args:
            coefficients: mean and standard deviation of the prior of each coefficient of the population.
            variances: the same of the logarithms of the standard deviations of `random`, and of the noise.
            use_priors: whether these are priors, or only where the search starts.
            average: whether forecasts average over what is not known about the variances.
            restricted: whether to maximise the restricted likelihood.
        """
        of_fixed, prior = (_prior(expected, use_priors=use_priors) for expected in (coefficients, variances))
        self.likelihood = Likelihood(self.covariance, prior, restricted=restricted, of_fixed=of_fixed)
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
        with_all = self._converged(rows, torch.ones(1, num, dtype=torch.float64), self._start(rows))
        weights = 1.0 - torch.eye(num, dtype=torch.float64)
        start = _State(*(part.expand(num, *part.shape[1:]) for part in with_all))
        return list(self._fitted(rows, self._converged(rows, weights, start), weights))

    def linearised(self, rows: Rows, coefficients: Tensor) -> tuple[Rows, Tensor]:
        """Return the rows of the linear model that touches the curves, and the curves [L, N, V].

        Args:
            rows: visits of N patients.
            coefficients: of each patient [L, N, P].
        """
        seen = rows.seen
        tangents = torch.eye(coefficients.shape[-1], dtype=coefficients.dtype)
        slopes = []
        for tangent in tangents:
            curves, slope = torch.func.jvp(
                lambda at: self.curve(at, rows.years), (coefficients,), (tangent.expand_as(coefficients),)
            )
            slopes.append(slope)
        inputs = torch.stack(slopes, dim=-1) * seen.unsqueeze(-1)
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
        return ((rows.random * variances).mT @ weighted).squeeze(-1)

    def _start(self, rows: Rows) -> _State:
        assert self.likelihood.of_fixed is not None
        effects = torch.zeros(1, len(rows.seen), len(self.random), dtype=torch.float64)
        return _State(self.likelihood.of_fixed.mean.unsqueeze(0), self.likelihood.prior.mean.unsqueeze(0), effects)

    def _converged(self, rows: Rows, weights: Tensor, state: _State) -> _State:
        for _ in range(_MAX_ITERATIONS):
            linear, _ = self.linearised(rows, self.of_patients(state.population, state.effects))
            parameters = estimate(linear, self.likelihood, state.parameters, weights).parameters
            population = solve(parameters, linear, self.likelihood, weights).coefficients
            moved = _State(population, parameters, self.modes(linear, parameters, population))
            change = max(float((new - old).abs().max()) for new, old in zip(moved, state, strict=True))
            state = moved
            if change < _TOLERANCE:
                break
        return state

    def _fitted(self, rows: Rows, state: _State, weights: Tensor) -> Sequence[FittedNonlinear]:
        linear, _ = self.linearised(rows, self.of_patients(state.population, state.effects))
        hessians = estimate(linear, self.likelihood, state.parameters, weights).hessian
        fits = []
        for number, (parameters, hessian) in enumerate(zip(state.parameters, hessians, strict=True)):
            nodes = nodes_about(parameters, hessian) if self.average else parameters.unsqueeze(0)
            own = linear._replace(
                **{name: getattr(linear, name)[number : number + 1] for name in ("values", "fixed", "random")}
            )
            at = solve(nodes, own, self.likelihood, weights[number].expand(len(nodes), -1))
            fits.append(FittedNonlinear(self, nodes, at.coefficients, torch.cholesky_inverse(at.factor)))
        return fits


class _State(NamedTuple):
    """Where an estimate is: coefficients of the population [L, P], variances [L, K] and effects [L, N, Q]."""

    population: Tensor
    parameters: Tensor
    effects: Tensor


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
        rows = padded_rows([seen])
        effects = torch.zeros(len(self.nodes), 1, len(model.random), dtype=torch.float64)
        for _ in range(_MAX_ITERATIONS):
            linear, _ = model.linearised(rows, model.of_patients(self.population, effects))
            moved = model.modes(linear, self.nodes, self.population)
            change, effects = float((moved - effects).abs().max()), moved
            if change < _TOLERANCE:
                break
        years = np.concatenate([seen.years, days / DAYS_PER_YEAR])
        noise = np.concatenate([seen.variance, np.full(len(days), seen.variance.mean())])
        both = padded_arrays([(years, np.zeros(len(years)), noise)])
        linear, curves = model.linearised(both, model.of_patients(self.population, effects))
        cov = padded(model.covariance(self.nodes, linear), linear)[:, 0]
        known, across, new = cov[:, :num, :num], cov[:, num:, :num], cov[:, num:, num:].diagonal(dim1=-2, dim2=-1)
        gain = torch.linalg.solve(known, across.mT).mT
        unexplained = linear.fixed[:, 0, num:] - gain @ linear.fixed[:, 0, :num]
        variance = new - (gain * across).sum(dim=-1) + ((unexplained @ self.spread) * unexplained).sum(dim=-1)
        mean = curves[:, 0, num:]
        total = variance.mean(dim=0) + mean.var(dim=0, correction=0)
        return Forecast(mean.mean(dim=0).numpy(), total.numpy())


def _prior(expected: Sequence[Unbounded], *, use_priors: bool) -> Prior:
    mean, spread = (torch.tensor(column, dtype=torch.float64) for column in zip(*expected, strict=True))
    return Prior(mean, spread**-2 if use_priors else torch.zeros_like(spread))
