"""Neural ordinary differential equation of log volume and latents: Gompertz growth, and a small rest that is learnt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from menvae.errors import UserError
from menvae.growth import FittedGrowth, Floats, Forecast, GrowthModel, Visits
from menvae.growth.flows import Flow, Network, sensitivities, solver_of
from menvae.growth.gaussian import (
    TYPICAL_SIZE,
    Likelihood,
    Prior,
    Rows,
    at_nodes,
    conditioned,
    estimate,
    padded,
    padded_arrays,
    padded_rows,
    solve,
)
from menvae.growth.gompertz import OneCapacityGompertz, first_rate_room, in_mm3
from menvae.growth.linear import Expected, nodes_about, positive
from menvae.growth.nonlinear import FittedNonlinear
from menvae.registry import Field, register

_SCALES = (-1.5, -0.5, 0.5, 1.5)
"""Standard deviations of the rest that are tried, in standard deviations of the logarithm from its median."""
_PENALTIES = torch.logspace(-1.0, 4.0, 26, dtype=torch.float64)
"""Of the weights of latents, relative to the noise."""


@register("growth", "latent_ode", reference="Chen et al. 2018; Vaghi et al. 2020")
class LatentODE(GrowthModel):
    """du/dt = a (ln K - u) + f(u, z, t) and dz/dt = g(u, z, t): Gompertz growth, with a small rest of latents.

    u is the log volume of a patient with a rate a of his own, and K one capacity; z are all columns of
    `Visits.latents`. A source passes those that evolve, such as the means of location and shape, in the units of their
    prior. f and g are networks with one hidden layer, which share features that are drawn once; their output weights
    start at 0, and one step of Gauss and Newton through the solver estimates them. A few dozen patients cannot teach
    features.

    The weights of f are normal effects that all patients share, estimated with the capacity and the variances.
    Forecasts average over their size by its evidence, from hardly any on, so that latents which say nothing leave those
    of Gompertz curves with one capacity. f and g see known visits as they were measured.
    """

    def __init__(
        self,
        *,
        capacity_ml: Expected = (80.0, 0.7),
        rate: tuple[float, float] = (0.1, 0.3),
        size_sd: Expected = (1.0, 1.0),
        rate_sd: Expected = (0.2, 1.0),
        noise_sd: Expected = (0.1, 1.0),
        remainder_sd: Expected = (0.05, 1.0),
        width: Annotated[int, Field(ge=1)] = 32,
        seed: int = 0,
        solver: Literal["split", "dopri5"] = "split",
        steps: Annotated[int, Field(ge=1)] = 8,
        tolerance: Annotated[float, Field(gt=0.0)] = 1e-6,
        adjoint: bool = False,
    ) -> None:
        """Say what is expected of the population; see `gompertz` for arguments that are not explained.

        Args:
            capacity_ml: of all patients.
            rate: mean growth of log volumes per year at first.
            size_sd: between patients.
            rate_sd: between patients.
            noise_sd: of measurements.
            remainder_sd: standard deviation of f, ln mm^3 per year: its median, and the standard deviation of its
                logarithm.
            width: features of the networks.
            seed: of the features.
            solver: ``split``: Gompertz in closed form with steps of the networks between; ``dopri5``: of torchdiffeq.
            steps: of ``split``, from each visit to the next and from the last to the day of a forecast.
            tolerance: of ``dopri5``.
            adjoint: whether ``dopri5`` integrates gradients backwards instead of remembering.

        Raises:
            UserError: torchdiffeq is needed and missing, or ``adjoint`` is wanted of ``split``.
        """
        self.base = OneCapacityGompertz(
            capacity_ml=capacity_ml, rate=rate, size_sd=size_sd, rate_sd=rate_sd, noise_sd=noise_sd, average=False
        )
        self.solver = solver_of(solver, steps=steps, tolerance=tolerance, adjoint=adjoint)
        self.remainder, self.width, self.seed = positive(remainder_sd), width, seed
        self.decay = max(0.0, rate[0]) / (in_mm3(capacity_ml)[0] - TYPICAL_SIZE)
        self.drift = rate[0] + self.decay * TYPICAL_SIZE

    def fit(self, patients: Sequence[Visits]) -> FittedGrowth:
        """Estimate the population.

        Raises:
            UserError: a patient has no latents, or not as many as the others.
        """
        _check_latents(patients)
        (fitted,) = self._fits(patients, [self.base.fit(patients)], torch.ones(1, len(patients), dtype=torch.float64))
        return fitted

    def fit_without_each(self, patients: Sequence[Visits]) -> list[FittedGrowth]:
        """Estimate the population without each of its patients; features and their derivatives serve all."""
        _check_latents(patients)
        weights = 1.0 - torch.eye(len(patients), dtype=torch.float64)
        return list(self._fits(patients, self.base.fit_without_each(patients), weights))

    def _fits(
        self, patients: Sequence[Visits], starts: Sequence[FittedGrowth], weights: Tensor
    ) -> Sequence[FittedLatentODE]:
        network = Network.drawn(_latents(patients[0]).shape[1], self.width, self.seed)
        rows, by_volume, by_latents = padded_rows(patients), [], []
        for visits in patients:
            exposed = self.exposed(network, visits, visits.years)
            missing = (0, 0, 0, rows.seen.shape[1] - len(visits))
            by_volume.append(torch.nn.functional.pad(exposed.by_volume, missing))
            by_latents.append(torch.nn.functional.pad(exposed.by_latents, missing))
        of_latents = _of_latents(torch.stack(by_latents), patients, rows.seen, weights)
        nonlinear = [_nonlinear(start) for start in starts]
        parameters = torch.stack([start.nodes.mean(dim=0) for start in nonlinear])
        population = torch.stack([start.population.mean(dim=0) for start in nonlinear])
        linear = _linear(self.base, rows, parameters, population)
        joint = _joined(linear, torch.stack(by_volume))
        at_scales = [self._at_scale(scale, joint, parameters, weights) for scale in _SCALES]
        return [
            FittedLatentODE(self, network, weights_of_latents, _averaged([fits[number] for fits in at_scales]))
            for number, weights_of_latents in enumerate(of_latents)
        ]

    def _at_scale(self, scale: float, joint: Rows, start: Tensor, weights: Tensor) -> list[_Scale]:
        """Estimate variances, population and weights [L sets] for one size of the rest."""
        median, deviation = self.remainder
        log_sd = median + scale * deviation - 0.5 * math.log(self.width)
        of_base = self.base.likelihood.of_fixed
        assert of_base is not None
        mean = torch.cat([of_base.mean, torch.zeros(self.width, dtype=torch.float64)])
        precision = torch.cat([of_base.precision, torch.full((self.width,), math.exp(-2.0 * log_sd)).double()])
        likelihood = Likelihood(
            self.base.covariance, self.base.likelihood.prior, restricted=True, of_fixed=Prior(mean, precision)
        )
        found = estimate(joint, likelihood, start, weights)
        least = solve(found.parameters, joint, likelihood, weights).loss + likelihood.prior.penalty(found.parameters)
        evidence = -least - 0.5 * torch.logdet(found.hessian) - self.width * log_sd - 0.5 * scale**2
        nodes = nodes_about(found.parameters, found.hessian)
        by_set = zip(evidence, at_nodes(nodes, joint, likelihood, weights), strict=True)
        return [_Scale(of_set, *population) for of_set, population in by_set]

    def exposed(self, network: Network, seen: Visits, years: Floats) -> Exposed:
        """Differentiate a patient's curve by weights, where these are 0.

        Flows start anew at each visit that is known. Those before the first visit run backwards from it.

        Args:
            network: of the features.
            seen: the visits that are known.
            years: to look at [T].
        """
        anchors = anchors_of(seen, years)
        begin = np.concatenate([np.arange(len(seen) - 1), anchors])
        lengths = torch.from_numpy(np.concatenate([seen.years[1:], years]) - seen.years[begin])
        decay, drift = (torch.full_like(lengths, number) for number in (self.decay, self.drift))
        times = (torch.from_numpy(seen.years[begin] - seen.years[0]), lengths)
        by_volume, by_latents = sensitivities(network, self.solver, state_of(seen)[begin], times, (decay, drift))
        chained = [(torch.zeros_like(by_volume[0]), torch.zeros_like(by_latents[0]))]
        factors = (-decay * lengths).exp()
        for number in range(len(seen) - 1):
            volume, latents = chained[-1]
            chained.append((factors[number] * volume + by_volume[number], latents + by_latents[number]))
        before, before_latents = (torch.stack(parts)[anchors] for parts in zip(*chained, strict=True))
        ahead = slice(len(seen) - 1, None)
        return Exposed(factors[ahead, None] * before + by_volume[ahead], before_latents + by_latents[ahead])


class Exposed(NamedTuple):
    """Derivatives of a curve of a patient by the weights of the networks.

    Attributes:
        by_volume: of the log volume by those of the volume [T, H].
        by_latents: of any latent by its own [T, H].
    """

    by_volume: Tensor
    by_latents: Tensor


class _Scale(NamedTuple):
    """What is estimated with one size of the rest: log evidence, and the attributes of `Population`."""

    evidence: Tensor
    nodes: Tensor
    population: Tensor
    spread: Tensor


class Population(NamedTuple):
    """Populations, each with a probability.

    Attributes:
        probability: [J].
        nodes: logarithms of the variance parameters [J, K].
        population: coefficients of the curve, and weights of the volume [J, P + H].
        spread: their covariance [J, P + H, P + H].
    """

    probability: Tensor
    nodes: Tensor
    population: Tensor
    spread: Tensor


def _averaged(scales: Sequence[_Scale]) -> Population:
    """Weigh sizes of the rest by their evidence."""
    probability = torch.stack([scale.evidence for scale in scales]).softmax(dim=0)
    shares = [
        share.expand(len(scale.nodes)) / len(scale.nodes) for share, scale in zip(probability, scales, strict=True)
    ]
    return Population(torch.cat(shares), *(torch.cat(parts) for parts in list(zip(*scales, strict=True))[1:]))


@dataclass(frozen=True)
class FittedLatentODE:
    """A population.

    Attributes:
        model: of it.
        network: features.
        of_latents: weights of the latents [H, Z].
        populations: with what is not known about them.
    """

    model: LatentODE
    network: Network
    of_latents: Tensor
    populations: Population

    def predict(self, seen: Visits, days: Floats) -> Forecast:
        """Forecast by the flow from the last known visit, as the likeliest curves of the patient have it.

        The variance is that of curves which are linear in effects and weights.

        Raises:
            UserError: the visits have no latents, or not as many as those of the population.
        """
        states, variance = self._states(seen, days)
        each, probability = states[..., 0], self.populations.probability
        mean = probability @ each
        return Forecast(mean.numpy(), (probability @ (variance + (each - mean).square())).numpy())

    def state(self, seen: Visits, day: float) -> tuple[float, Floats]:
        """Forecast the state of a patient on a day.

        Returns:
            Log volume, ln mm^3, and latents [Z].
        """
        states, _ = self._states(seen, np.array([day], dtype=np.float64))
        mean = (self.populations.probability @ states[:, 0]).numpy()
        return float(mean[0]), mean[1:]

    @torch.no_grad()
    def _states(self, seen: Visits, days: Floats) -> tuple[Tensor, Tensor]:
        """Return the states [J, T, 1 + Z] on some days, and the variance of log volumes [J, T]."""
        _check_latents([seen], of=self.of_latents.shape[1])
        num, years = len(seen), np.concatenate([seen.years, seen.years_of(days)])
        with torch.enable_grad():
            by_weights = self.model.exposed(self.network, seen, years).by_volume
        coefficients, weights = self._curves(padded_rows([seen]), by_weights[:num])
        noise = np.concatenate([seen.variance, np.full(len(days), seen.variance.mean())])
        both = padded_arrays([(years, np.zeros(len(years)), noise)])
        linear, curves = self.model.base.linearised(both, coefficients)
        variance = self._variance(_joined(linear, by_weights.unsqueeze(0)), num)
        at_visits = curves[:, 0, :num] + weights @ by_weights[:num].T
        return self._flown(seen, years[num:], at_visits, coefficients[:, 0], weights), variance

    def _curves(self, rows: Rows, by_weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return the likeliest coefficients of a patient's curve [J, 1, P], and the weights [J, H]."""
        base, populations = self.model.base, self.populations
        of_curve = len(populations.population[0]) - len(by_weights[0])
        population, weights = populations.population.tensor_split([of_curve], dim=1)
        left = rows.values - (weights @ by_weights.T).unsqueeze(1)
        return base.likeliest(rows._replace(values=left), populations.nodes, population), weights

    def _variance(self, rows: Rows, num: int) -> Tensor:
        """Return the variance of what is measured after ``num`` known visits [J, T]."""
        populations = self.populations
        cov = padded(self.model.base.covariance(populations.nodes, rows), rows)[:, 0]
        return conditioned(cov, rows.fixed[:, 0], num, populations.spread)[1]

    def _flown(self, seen: Visits, years: Floats, at_visits: Tensor, coefficients: Tensor, weights: Tensor) -> Tensor:
        """Return the states [J, T, 1 + Z] after flows from the last known visit before each time.

        Args:
            seen: known visits.
            years: to forecast [T].
            at_visits: log volumes that curves have there [J, V].
            coefficients: of the curves [J, P].
            weights: of the volume [J, H].
        """
        anchors = anchors_of(seen, years)
        each, ahead = len(weights), len(years)
        state = state_of(seen)[anchors].repeat(each, 1)
        state[:, 0] = at_visits[:, anchors].flatten()
        first, rate, room = (part.squeeze(-1) for part in first_rate_room(coefficients))
        decay = rate.clamp(min=0.0) / room
        drift = rate + decay * first
        whole = torch.cat([weights.unsqueeze(-1), self.of_latents.expand(each, -1, -1)], dim=-1)
        decay, drift, whole = (part.repeat_interleave(ahead, dim=0) for part in (decay, drift, whole))
        start = torch.from_numpy(seen.years[anchors] - seen.years[0]).repeat(each)
        lengths = torch.from_numpy(years - seen.years[anchors]).repeat(each)
        flow = Flow(self.network, decay, drift, whole)
        return self.model.solver(flow, state, start, lengths).view(each, ahead, -1)


def anchors_of(seen: Visits, years: Floats) -> NDArray[np.intp]:
    """Return the number of the last visit not after each time [T], or of the first visit."""
    return np.maximum(np.searchsorted(seen.years, years, side="right") - 1, 0)


def state_of(seen: Visits) -> Tensor:
    """Return log volumes and latents [V, 1 + Z] as they were measured."""
    return torch.from_numpy(np.column_stack([seen.log_volume, _latents(seen)]))


def _latents(visits: Visits) -> Floats:
    assert visits.latents is not None
    return visits.latents


def _check_latents(patients: Sequence[Visits], of: int | None = None) -> None:
    for visits in patients:
        found = 0 if visits.latents is None else visits.latents.shape[1]
        of = found if of is None else of
        if not found:
            raise UserError(f"growth=latent_ode needs latents, and patient '{visits.patient}' has none: source=run")
        if found != of:
            raise UserError(
                f"growth=latent_ode: patient '{visits.patient}' has {found} latents, and others have {of}; all must "
                "have the same"
            )


def _nonlinear(fitted: FittedGrowth) -> FittedNonlinear:
    assert isinstance(fitted, FittedNonlinear)
    return fitted


def _linear(base: OneCapacityGompertz, rows: Rows, parameters: Tensor, population: Tensor) -> Rows:
    """Return the rows of the linear model that touches the likeliest curves of all patients."""
    return base.linearised(rows, base.likeliest(rows, parameters, population))[0]


def _joined(rows: Rows, by_weights: Tensor) -> Rows:
    """Add derivatives by weights [N, V, H] to the inputs of fixed effects [L, N, V, P]."""
    return rows._replace(fixed=torch.cat([rows.fixed, by_weights.expand(len(rows.fixed), -1, -1, -1)], dim=-1))


def _of_latents(by_latents: Tensor, patients: Sequence[Visits], seen: Tensor, weights: Tensor) -> Tensor:
    """Estimate the weights of latents by ridge regression, with the penalty that has most evidence.

    Args:
        by_latents: derivatives [N, V, H].
        patients: N; their latents have a mean of their own, and all the same noise.
        seen: whether there is a visit [N, V].
        weights: 1 for patients that count and 0 for others [L, N].

    Returns:
        Weights [L, H, Z].

    Source: MacKay 1992, Neural Comput 4:415.
    """
    most = seen.shape[1]
    latents = torch.stack([torch.from_numpy(np.pad(_latents(one), ((0, most - len(one)), (0, 0)))) for one in patients])
    there, count = seen.unsqueeze(-1).double(), seen.sum(dim=1)
    inputs, outputs = (
        (part - (part * there).sum(dim=1, keepdim=True) / count[:, None, None]) * there
        for part in (by_latents, latents)
    )
    moments = torch.einsum("ln,nvh,nvk->lhk", weights, inputs, inputs)
    shared = torch.einsum("ln,nvh,nvz->lhz", weights, inputs, outputs)
    squares = torch.einsum("ln,nvz->l", weights, outputs.square())
    num = latents.shape[-1] * (weights @ (count - 1).double())
    size, axes = torch.linalg.eigh(moments)
    size, turned = size.clamp(min=0.0), axes.mT @ shared
    shrunk = size.unsqueeze(-1) + _PENALTIES
    left = squares.unsqueeze(-1) - (turned.square().sum(dim=-1, keepdim=True) / shrunk).sum(dim=1)
    complexity = latents.shape[-1] * (shrunk / _PENALTIES).log().sum(dim=1)
    evidence = -0.5 * (complexity + num.unsqueeze(-1) * left.clamp(min=1e-12).log())
    best = _PENALTIES[evidence.argmax(dim=-1)]
    weights_of: Tensor = axes @ (turned / (size + best.unsqueeze(-1)).unsqueeze(-1))
    return weights_of
