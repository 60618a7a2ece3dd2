"""Exponential growth: the log volume of each patient is a straight line, wherever it starts."""

from __future__ import annotations

import torch
from torch import Tensor

from menvae.growth.gaussian import Rows
from menvae.growth.linear import ANY_FIRST_SIZE, Expected, LinearGrowth, line, positive
from menvae.registry import register


@register("growth", "exponential", reference="Collins, Loeffler & Tivey 1956")
class Exponential(LinearGrowth):
    """dV/dt = r V with a normal rate r of each patient, and noise.

    It differs from `lme` in that the size of a tumour says nothing about its rate, and other patients nothing about its
    size.
    """

    def __init__(
        self,
        *,
        rate_sd: Expected = (0.2, 1.0),
        noise_sd: Expected = (0.1, 1.0),
        use_priors: bool = True,
        average: bool = True,
    ) -> None:
        """Say what is expected of the variances; see `lme` for all arguments."""
        super().__init__(positive(rate_sd), positive(noise_sd), use_priors=use_priors, average=average)

    def fixed(self, years: Tensor) -> Tensor:
        """Years [..., V] -> 1 and years [..., V, 2]."""
        return line(years)

    def covariance(self, parameters: Tensor, rows: Rows) -> Tensor:
        """Logarithms of the standard deviations of rates and of noise [L, 2] -> [L, N, V, V]."""
        rate, noise = (2.0 * parameters).exp()[:, :, None, None, None].unbind(dim=1)
        both = rows.years.unsqueeze(-1) * rows.years.unsqueeze(-2)
        return ANY_FIRST_SIZE + rate * both + noise * torch.eye(rows.years.shape[-1], dtype=noise.dtype)
