"""Growth models in which log volumes are Gaussian given variances: fixed effects, and effects of a patient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from menvae.growth import FittedGrowth, Floats, Forecast, GrowthModel, Visits
from menvae.growth.gaussian import (
    NEARBY,
    Likelihood,
    Prior,
    Rows,
    at_nodes,
    conditioned,
    estimate,
    padded,
    padded_arrays,
    padded_rows,
)
from menvae.registry import Field

_SMALLEST_CURVATURE = 0.25
"""Of the log posterior: no parameter is averaged over beyond a factor of e^2."""

Expected = tuple[Annotated[float, Field(gt=0.0)], Annotated[float, Field(gt=0.0)]]
"""Median of a positive number, and the standard deviation of its logarithm: 0.7 is a factor of two."""


ANY_FIRST_SIZE = 100.0
"""Variance of first log volumes, so large that those of other patients say nothing about one."""

Unbounded = tuple[float, float]
"""Mean and standard deviation of the normal prior of an unbounded number."""


def line(years: Tensor) -> Tensor:
    """Years [..., V] -> 1 and years, the inputs of a straight line [..., V, 2]."""
    return torch.stack([torch.ones_like(years), years], dim=-1)


def positive(expected: Expected) -> Unbounded:
    """Return the prior of the logarithm of a positive number; raises ValueError unless its median is positive."""
    median, spread = expected
    return math.log(median), spread


class LinearGrowth(GrowthModel):
    """Base class of models whose log volumes are Gaussian, with an expectation that is linear in fixed effects.

    The variance parameters maximise the restricted likelihood times their priors. Forecasts average over what is not
    known about these parameters, and contain the variance of the fixed effects: a best linear unbiased prediction with
    parameters taken as known is too sure of itself (Kackar & Harville 1984).
    """

    fitted: type[FittedLinear]

    def __init__(self, *expected: Unbounded, use_priors: bool, average: bool) -> None:
        """Say what is expected of the variance parameters, in the order of `covariance`.

        Args:
            expected: of each.
            use_priors: whether that is a prior, or only where the search starts.
            average: whether forecasts average over what is not known about the parameters.
        """
        prior = Prior.of(expected, use_priors=use_priors)
        self.likelihood, self.average = Likelihood(self.covariance, prior, restricted=True), average

    # --- what models define -------------------------------------------------------------------------------------------

    def fixed(self, years: Tensor) -> Tensor:
        """Years [..., V] -> inputs of the fixed effects [..., V, P]."""
        raise NotImplementedError

    def random(self, years: Tensor) -> Tensor:
        """Years [..., V] -> inputs of the random effects [..., V, Q]; none where `covariance` needs none."""
        return years.new_zeros(*years.shape, 0)

    def covariance(self, parameters: Tensor, rows: Rows) -> Tensor:
        """Variance parameters, unbounded [L, K] -> covariance of measured log volumes [L, N, V, V]."""
        raise NotImplementedError

    # --- what they get ------------------------------------------------------------------------------------------------

    def fit(self, patients: Sequence[Visits]) -> FittedGrowth:
        """Estimate the population."""
        rows = self.rows(patients)
        everyone = torch.ones(1, len(patients), dtype=torch.float64)
        (fitted,) = self._fitted(rows, self.likelihood.prior.mean.unsqueeze(0), everyone)
        return fitted

    def fit_without_each(self, patients: Sequence[Visits]) -> list[FittedGrowth]:
        """Estimate the population without each of its patients, all at once and from the estimate with all of them."""
        rows, num = self.rows(patients), len(patients)
        everyone = torch.ones(1, num, dtype=torch.float64)
        expected = self.likelihood.prior.mean.unsqueeze(0)
        start = estimate(rows, self.likelihood, expected, everyone, tolerance=NEARBY).parameters
        weights = 1.0 - torch.eye(num, dtype=torch.float64)
        return list(self._fitted(rows, start.expand(num, -1), weights))

    def rows(self, patients: Sequence[Visits]) -> Rows:
        """Pad the visits of some patients."""
        return self.with_inputs(padded_rows(patients))

    def with_inputs(self, rows: Rows) -> Rows:
        """Add the inputs of the effects."""
        at = rows.seen.unsqueeze(-1)
        return rows._replace(fixed=at * self.fixed(rows.years), random=at * self.random(rows.years))

    def _fitted(self, rows: Rows, start: Tensor, weights: Tensor) -> Sequence[FittedLinear]:
        found = estimate(rows, self.likelihood, start, weights)
        nodes = nodes_about(*found) if self.average else found.parameters.unsqueeze(1)
        return [self.fitted(self, *population) for population in at_nodes(nodes, rows, self.likelihood, weights)]


@dataclass(frozen=True)
class FittedLinear:
    """A population.

    Attributes:
        model: of it.
        nodes: logarithms of the variance parameters [M, K], all as likely.
        coefficients: fixed effects with each of them [M, P].
        spread: their covariance [M, P, P].
    """

    model: LinearGrowth
    nodes: Tensor
    coefficients: Tensor
    spread: Tensor

    def predict(self, seen: Visits, days: Floats) -> Forecast:
        """Forecast by universal kriging, averaged over the variance parameters."""
        num, unknown = len(seen), np.zeros(len(days))
        years = np.concatenate([seen.years, seen.years_of(days)])
        noise = np.concatenate([seen.variance, unknown + seen.variance.mean()])
        both = padded_arrays([(years, np.concatenate([seen.log_volume, unknown]), noise)])
        rows = self.model.with_inputs(both._replace(size=padded_rows([seen]).size))
        cov = padded(self.model.covariance(self.nodes, rows), rows)[:, 0]
        gain, variance = conditioned(cov, rows.fixed[0], num, self.spread)
        before, after = rows.fixed[0, :num], rows.fixed[0, num:]
        surprise = rows.values[0, :num] - self.coefficients @ before.T
        mean = self.coefficients @ after.T + (gain @ surprise.unsqueeze(-1)).squeeze(-1)
        total = variance.mean(dim=0) + mean.var(dim=0, correction=0)
        return Forecast(mean.mean(dim=0).numpy(), total.numpy())


LinearGrowth.fitted = FittedLinear


def nodes_about(parameters: Tensor, hessian: Tensor) -> Tensor:
    """Return 2 K points with the mean and the covariance of the normal approximation of each posterior.

    Args:
        parameters: [L, K].
        hessian: of minus the log posterior [L, K, K].

    Returns:
        [L, 2 K, K].
    """
    num = parameters.shape[-1]
    curvature, axes = torch.linalg.eigh(hessian)
    steps = (math.sqrt(num) * axes * curvature.clamp(min=_SMALLEST_CURVATURE).rsqrt().unsqueeze(-2)).mT
    middle = parameters.unsqueeze(1)
    return torch.cat([middle + steps, middle - steps], dim=1)
