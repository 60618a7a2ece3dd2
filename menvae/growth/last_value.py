"""The last known volume: what every other model has to beat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from menvae.growth import Floats, Forecast, Visits
from menvae.growth.gaussian import Rows
from menvae.growth.linear import ANY_FIRST_SIZE, Expected, FittedLinear, LinearGrowth, positive
from menvae.growth.visits import DAYS_PER_YEAR
from menvae.registry import register


@dataclass(frozen=True)
class FittedLastValue(FittedLinear):
    """A population without a rate."""

    def predict(self, seen: Visits, days: Floats) -> Forecast:
        """Forecast the last log volume, with the variance of a random walk and of two measurements."""
        years = np.abs(days - seen.days[-1]) / DAYS_PER_YEAR
        walk, noise = (2.0 * self.nodes).exp().mean(dim=0).tolist()
        known = seen.variance[-1] + seen.variance.mean()
        return Forecast(np.full(len(days), seen.log_volume[-1]), walk * years + 2.0 * noise + known)


@register("growth", "last_value", reference="")
class LastValue(LinearGrowth):
    """The last log volume of the patient, as if nothing grew.

    Its variance is that of a random walk without drift, estimated from the other patients.
    """

    fitted = FittedLastValue

    def __init__(
        self,
        *,
        walk_sd: Expected = (0.2, 1.0),
        noise_sd: Expected = (0.1, 1.0),
        use_priors: bool = True,
        average: bool = True,
    ) -> None:
        """Say what is expected of the variances.

        Args:
            walk_sd: standard deviation of the change of the log volume in a year: its median, and the standard
                deviation of its logarithm.
            noise_sd: the same of measurements.
            use_priors: whether that is a prior, or only where the search starts.
            average: whether forecasts average over what is not known about the variances.
        """
        super().__init__(positive(walk_sd), positive(noise_sd), use_priors=use_priors, average=average)

    def fixed(self, years: Tensor) -> Tensor:
        """Years [..., V] -> 1 [..., V, 1]."""
        return torch.ones_like(years).unsqueeze(-1)

    def covariance(self, parameters: Tensor, rows: Rows) -> Tensor:
        """Logarithms of the standard deviations of walk and noise [L, 2] -> [L, N, V, V]."""
        walk, noise = (2.0 * parameters).exp()[:, :, None, None, None].unbind(dim=1)
        since_first = rows.years - rows.years[..., :1]
        shared = torch.minimum(since_first.unsqueeze(-1), since_first.unsqueeze(-2))
        return ANY_FIRST_SIZE + walk * shared + noise * torch.eye(rows.years.shape[-1], dtype=noise.dtype)
