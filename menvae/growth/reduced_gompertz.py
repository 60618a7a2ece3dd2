"""Gompertz curves whose rates differ between patients, with one capacity for all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from menvae.growth import FittedGrowth, Floats, Forecast, GrowthModel, Visits
from menvae.growth.gaussian import Derivatives, Estimate, Prior, Rows, by_visits, minimum, padded_rows
from menvae.growth.gompertz import ANY_SIZE, in_mm3
from menvae.growth.linear import Expected, Unbounded, nodes_about, positive
from menvae.registry import register

_NODES = torch.arange(-8.0, 8.5, 0.5, dtype=torch.float64)
"""Nodes of rates about their mean in a patient, in standard deviations. A sum over them is an integral but for 1e-13,
or 1e-4 where curves bend between rates above and below 0."""
_COARSE, _ROUNDS = _NODES[::2], 6
"""Nodes that move, in so many rounds, from where rates are in the population to where they are in a patient."""
_LEAST = 0.25
"""By which the distance of nodes shrinks in a round at most: the next nodes still cover what lies between two."""
_ROUNDING = 1e-6
"""Of a loss, relative to its size: nodes move with parameters."""
_MOST_NUMBERS = 2_000_000
"""Volumes of all nodes, patients and sets that are held at once."""


class Population(NamedTuple):
    """Parameters of populations, in their order.

    Attributes:
        size: mean first log volume.
        log_size_sd: of first log volumes.
        rate: mean rate per year.
        log_rate_sd: of rates.
        capacity: log capacity.
        log_noise_sd: of measurements.
    """

    size: Tensor
    log_size_sd: Tensor
    rate: Tensor
    log_rate_sd: Tensor
    capacity: Tensor
    log_noise_sd: Tensor

    @classmethod
    def of(cls, parameters: Tensor) -> Population:
        """Parameters [L, 6] -> [L, 1, 1] each, beside patients and rates."""
        return cls(*parameters[:, None, None].unbind(dim=-1))


@register("growth", "reduced_gompertz", reference="Vaghi et al. 2020")
class ReducedGompertz(GrowthModel):
    """dV/dt = a V ln(K / V) with a first volume and a rate a of each patient, and one capacity K.

    Two or three visits cannot tell a capacity; all patients together can. Where a is negative, the tumour shrinks
    exponentially, as fast as the equation says of the first day.

    With the rate known, log volumes are normal. The likelihood and forecasts are integrals over the normal distribution
    of rates, by quadrature about the rate of each patient (Pinheiro & Bates 1995, J Comput Graph Stat 4:12), without
    taking curves for linear.
    """

    def __init__(
        self,
        *,
        capacity_ml: Expected = (80.0, 0.7),
        rate: Unbounded = (0.05, 0.15),
        size_sd: Expected = (1.0, 1.0),
        rate_sd: Expected = (0.1, 0.7),
        noise_sd: Expected = (0.1, 0.5),
        use_priors: bool = True,
        average: bool = True,
    ) -> None:
        """Say what is expected of the population.

        Args:
            capacity_ml: capacity: its median, and the standard deviation of its logarithm.
            rate: mean rate a per year: its mean and standard deviation. Where rates are negative, tumours shrink.
            size_sd: standard deviation between patients of the first log volume: its median, and the standard deviation
                of its logarithm.
            rate_sd: the same of rates.
            noise_sd: the same of measurements.
            use_priors: whether that is a prior, or only where the search starts.
            average: whether forecasts average over what is not known about the population.
        """
        expected = [ANY_SIZE, positive(size_sd), rate, positive(rate_sd), in_mm3(capacity_ml), positive(noise_sd)]
        self.prior, self.average = Prior.of(expected, use_priors=use_priors), average

    def fit(self, patients: Sequence[Visits]) -> FittedGrowth:
        """Estimate the population."""
        everyone = torch.ones(1, len(patients), dtype=torch.float64)
        (fitted,) = self._fitted(padded_rows(patients), self.prior.mean.unsqueeze(0), everyone)
        return fitted

    def fit_without_each(self, patients: Sequence[Visits]) -> list[FittedGrowth]:
        """Estimate the population without each of its patients, all at once and from the estimate with all of them."""
        rows, num = padded_rows(patients), len(patients)
        everyone = torch.ones(1, num, dtype=torch.float64)
        start = self._minimum(rows, self.prior.mean.unsqueeze(0), everyone).parameters
        return list(self._fitted(rows, start.expand(num, -1), 1.0 - torch.eye(num, dtype=torch.float64)))

    def losses(self, parameters: Tensor, rows: Rows) -> Tensor:
        """Minus the log likelihoods of N patients in L populations [L, 6] -> [L, N]."""
        rates = patient_rates(parameters.detach(), rows)
        return -torch.logsumexp(_of_rates(parameters, rates, rows).logarithm, dim=-1)

    def _fitted(self, rows: Rows, start: Tensor, weights: Tensor) -> Sequence[FittedReducedGompertz]:
        parameters, hessians = self._minimum(rows, start, weights)
        if not self.average:
            return [FittedReducedGompertz(one.unsqueeze(0), one.new_ones(1)) for one in parameters]
        nodes = nodes_about(parameters, hessians)
        return [
            FittedReducedGompertz(some, self._plausible(some, middle, rows, counting))
            for some, middle, counting in zip(nodes, parameters, weights, strict=True)
        ]

    def _plausible(self, nodes: Tensor, middle: Tensor, rows: Rows, weights: Tensor) -> Tensor:
        """Return the weights of nodes [M]: less where the posterior is below its normal approximation."""
        both = torch.cat([middle.unsqueeze(0), nodes])
        loss = self.losses(both, rows) @ weights + self.prior.penalty(both)
        excess = loss[1:] - loss[0] - 0.5 * nodes.shape[-1]
        return torch.softmax(-excess.clamp(min=0.0), dim=0)

    def _minimum(self, rows: Rows, start: Tensor, weights: Tensor) -> Estimate:
        at_once = max(1, _MOST_NUMBERS // (rows.seen.numel() * _NODES.numel()))
        return minimum(partial(self._derivatives, rows), start, weights, at_once=at_once, rounding=_ROUNDING)

    def _derivatives(self, rows: Rows, parameters: Tensor, weights: Tensor) -> Derivatives:
        at = parameters.detach().requires_grad_()
        with torch.enable_grad():
            loss = self.prior.penalty(at)
            for some, counting in by_visits(rows, weights):
                loss = loss + (counting * self.losses(at, some)).sum(dim=-1)
            (gradient,) = torch.autograd.grad(loss.sum(), at, create_graph=True)
            columns = [torch.autograd.grad(one.sum(), at, retain_graph=True)[0] for one in gradient.unbind(dim=-1)]
        hessian = torch.stack(columns, dim=-1)
        return Derivatives(loss.detach(), gradient.detach(), 0.5 * (hessian + hessian.mT), at.new_zeros(len(at), 0))


@dataclass(frozen=True)
class FittedReducedGompertz:
    """A population.

    Attributes:
        nodes: parameters in the order of `Population` [M, 6].
        weights: of the nodes [M].
    """

    nodes: Tensor
    weights: Tensor

    def predict(self, seen: Visits, days: Floats) -> Forecast:
        """Forecast by the posterior of the rate of the patient, and of the first volume for each rate."""
        rows = padded_rows([seen])
        rates = patient_rates(self.nodes, rows)
        known = _of_rates(self.nodes, rates, rows)
        weights = torch.softmax(known.logarithm, dim=-1).unsqueeze(-1)
        population = Population.of(self.nodes)
        capacity = population.capacity.unsqueeze(-1)
        left = way_left(rates, torch.from_numpy(seen.years_of(days)).expand(1, -1))
        mean = capacity + left * (known.first.unsqueeze(-1) - capacity)
        variance = left.square() / known.precision.unsqueeze(-1)
        of_nodes = (weights * mean).sum(dim=2)
        spread = (weights * (variance + (mean - of_nodes.unsqueeze(2)).square())).sum(dim=2)
        total = spread + (2.0 * population.log_noise_sd).exp().squeeze(-1) + float(seen.variance.mean())
        found = self.weights @ of_nodes[:, 0]
        variance_of_all = self.weights @ (total[:, 0] + (of_nodes[:, 0] - found).square())
        return Forecast(found.numpy(), variance_of_all.numpy())


class _Known(NamedTuple):
    """What the visits of N patients say at M rates each.

    Attributes:
        logarithm: of the likelihood times the density of the rate times the distance of nodes [L, N, M].
        first: mean of the first log volume [L, N, M].
        precision: 1 / its variance [L, N, M].
    """

    logarithm: Tensor
    first: Tensor
    precision: Tensor


def way_left(rates: Tensor, years: Tensor) -> Tensor:
    """Rates [..., M] and years [..., V] -> the share of the way to the log capacity that is left [..., M, V].

    It is above 1 for tumours that shrink.
    """
    exponent = -rates.unsqueeze(-1) * years.unsqueeze(-2)
    grows = rates.unsqueeze(-1) > 0.0
    return torch.where(grows, exponent.masked_fill(~grows, 0.0).exp(), 1.0 + exponent)


def _of_rates(parameters: Tensor, rates: Tensor, rows: Rows) -> _Known:
    """Integrate over the first volume, which is normal, at the rates [L, N, M] of each patient."""
    population = Population.of(parameters)
    capacity, left, seen = population.capacity.unsqueeze(-1), way_left(rates, rows.years), rows.seen.unsqueeze(-2)
    noise = (2.0 * population.log_noise_sd).exp().unsqueeze(-1) + rows.noise.unsqueeze(-2)
    surprise = rows.values.unsqueeze(-2) - capacity - left * (population.size.unsqueeze(-1) - capacity)
    there = seen / noise
    precision = (-2.0 * population.log_size_sd).exp() + (there * left.square()).sum(dim=-1)
    moved = (there * left * surprise).sum(dim=-1) / precision
    squares = (there * surprise.square()).sum(dim=-1) - moved.square() * precision
    of_noise = torch.where(seen, (2.0 * math.pi * noise).log(), 0.0).sum(dim=-1)
    likelihood = -0.5 * (squares + of_noise + precision.log()) - population.log_size_sd
    apart = (rates - population.rate) / population.log_rate_sd.exp()
    density = -0.5 * (apart.square() + math.log(2.0 * math.pi)) - population.log_rate_sd
    distance = (rates[..., 1:2] - rates[..., :1]).log()
    return _Known(likelihood + density + distance, population.size + moved, precision)


@torch.no_grad()
def patient_rates(parameters: Tensor, rows: Rows) -> Tensor:
    """Return evenly spaced rates that cover the posterior of each of N patients in L populations [L, N, M].

    The nodes begin where rates are in the population, and move to where the posterior on them is: its mean, and its
    standard deviation, which falls to a quarter at most.
    """
    population = Population.of(parameters)
    mean, sd = population.rate, population.log_rate_sd.exp()
    for _ in range(_ROUNDS):
        rates = mean + sd * _COARSE
        weights = torch.softmax(_of_rates(parameters, rates, rows).logarithm, dim=-1)
        mean = (weights * rates).sum(dim=-1, keepdim=True)
        sd = torch.maximum((weights * (rates - mean).square()).sum(dim=-1, keepdim=True).sqrt(), _LEAST * sd)
    return mean + sd * _NODES
