"""Gaussian processes: each patient's log volume wanders about the population's line."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from menvae.growth.gaussian import Rows
from menvae.growth.linear import Expected, LinearGrowth, line, positive
from menvae.registry import register


@register("growth", "gp", reference="Rasmussen & Williams 2006; Matern 1960")
class GaussianProcess(LinearGrowth):
    """Line of the population + normal size of each patient + Matern process (5/2) of each patient + noise.

    All patients share the line and the parameters of the process. A forecast far beyond the visits of a patient
    returns to a line with the population's rate.
    """

    def __init__(
        self,
        *,
        size_sd: Expected = (1.0, 1.0),
        process_sd: Expected = (0.5, 1.0),
        length_years: Expected = (3.0, 0.7),
        noise_sd: Expected = (0.1, 1.0),
        use_priors: bool = True,
        average: bool = True,
    ) -> None:
        """Say what is expected of the covariance.

        Args:
            size_sd: standard deviation between patients of the log volume: its median, and the standard deviation of
                its logarithm.
            process_sd: the same of the process.
            length_years: of the process, in which it forgets; also a median and the deviation of its logarithm.
            noise_sd: standard deviation of measurements.
            use_priors: whether that is a prior, or only where the search starts.
            average: whether forecasts average over what is not known about these parameters.
        """
        expected = (positive(size_sd), positive(process_sd), positive(length_years), positive(noise_sd))
        super().__init__(*expected, use_priors=use_priors, average=average)

    def fixed(self, years: Tensor) -> Tensor:
        """Years [..., V] -> 1 and years [..., V, 2]."""
        return line(years)

    def covariance(self, parameters: Tensor, rows: Rows) -> Tensor:
        """Logarithms of the parameters [L, 4] -> [L, N, V, V]."""
        size, process, length, noise = parameters.exp()[:, :, None, None, None].unbind(dim=1)
        apart = (rows.years.unsqueeze(-1) - rows.years.unsqueeze(-2)).abs() * (math.sqrt(5.0) / length)
        matern = (1.0 + apart + apart.square() / 3.0) * (-apart).exp()
        return size**2 + process**2 * matern + noise**2 * torch.eye(rows.years.shape[-1], dtype=noise.dtype)
