"""Linear mixed effects: each patient's log volume is a straight line in time."""

from __future__ import annotations

import torch
from torch import Tensor

from menvae.growth.gaussian import Rows
from menvae.growth.linear import Expected, LinearGrowth, line, positive
from menvae.registry import register

CORRELATION = (0.0, 0.7)
"""Prior of the inverse hyperbolic tangent of a correlation: between -.88 and .88 with 95 %."""


class StraightLines(LinearGrowth):
    """Log volume = intercept + rate * years, with a normal intercept and rate of each patient.

    The first parameters are the logarithms of the standard deviations of both, the inverse hyperbolic tangent of their
    correlation, and the logarithm of the standard deviation of the noise.
    """

    def fixed(self, years: Tensor) -> Tensor:
        """Years [..., V] -> 1 and years [..., V, 2]."""
        return line(years)

    def random(self, years: Tensor) -> Tensor:
        """Years [..., V] -> 1 and years [..., V, 2]."""
        return self.fixed(years)

    def covariance(self, parameters: Tensor, rows: Rows) -> Tensor:
        """Parameters [L, K] -> [L, N, V, V]."""
        size, rate = parameters[:, :2].exp().unbind(dim=-1)
        both = size * rate * parameters[:, 2].tanh()
        effects = torch.stack([torch.stack([size**2, both], -1), torch.stack([both, rate**2], -1)], -1)
        of_patients = torch.einsum("nvp,lpq,nwq->lnvw", rows.random, effects, rows.random)
        return of_patients + torch.diag_embed(self.noise(parameters, rows))

    def noise(self, parameters: Tensor, rows: Rows) -> Tensor:
        """Parameters [L, K] -> variance of measurements [L, N, V]."""
        return (2.0 * parameters[:, 3, None, None]).exp().expand(-1, *rows.years.shape)


@register("growth", "lme", reference="Laird & Ware 1982")
class LinearMixedEffects(StraightLines):
    """Straight lines of log volumes, all with the same noise."""

    def __init__(
        self,
        *,
        size_sd: Expected = (1.0, 1.0),
        rate_sd: Expected = (0.2, 1.0),
        noise_sd: Expected = (0.1, 1.0),
        use_priors: bool = True,
        average: bool = True,
    ) -> None:
        """Say what is expected of the variances.

        Args:
            size_sd: standard deviation between patients of the log volume on day 0: its median, and the standard
                deviation of its logarithm.
            rate_sd: the same of the rate, per year.
            noise_sd: the same of measurements.
            use_priors: whether that is a prior, or only where the search starts. Without priors, this is REML.
            average: whether forecasts average over what is not known about the variances.
        """
        expected = (positive(size_sd), positive(rate_sd), CORRELATION, positive(noise_sd))
        super().__init__(*expected, use_priors=use_priors, average=average)
