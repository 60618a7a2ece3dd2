"""Gompertz curves whose rate and capacity differ between patients."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from menvae.growth.linear import Expected, positive
from menvae.growth.nonlinear import NonlinearGrowth
from menvae.registry import register

FIRST, RATE, CAPACITY = 0, 1, 2
ANY_SIZE = (math.log(10_000.0), 10.0)
"""Prior of the mean first log volume: hardly any."""
_LEAST_ROOM = 0.1
"""Smallest logarithm of the capacity over the first volume."""


def gompertz_curve(coefficients: Tensor, years: Tensor) -> Tensor:
    """First log volume, growth per year at first, log capacity [..., 3], years [..., V] -> log volumes [..., V].

    The solution of dV/dt = a V ln(K / V) in terms of g = a ln(K / V(0)), with which curves are almost linear as long as
    capacities are far away. Where g is negative, the tumour shrinks exponentially; a tumour near or above its capacity
    may grow by a factor of exp(`_LEAST_ROOM`).
    """
    first, rate, room = first_rate_room(coefficients)
    growth = rate.clamp(min=0.0)  # else the branch that is not taken has gradients that are not numbers
    return first + torch.where(rate > 0.0, -room * torch.expm1(-growth * years / room), rate * years)


def first_rate_room(coefficients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Split coefficients [..., 3] into first log volume, growth per year, and log capacity over first [..., 1] each."""
    first, rate, capacity = coefficients.unsqueeze(-2).unbind(dim=-1)
    return first, rate, (capacity - first).clamp(min=_LEAST_ROOM)


@register("growth", "gompertz", reference="Laird 1964; Lindstrom & Bates 1990")
class Gompertz(NonlinearGrowth):
    """dV/dt = a V ln(K / V) with a first volume, a rate and a capacity K of each patient."""

    random = (FIRST, RATE, CAPACITY)

    def __init__(
        self,
        *,
        capacity_ml: Expected = (80.0, 0.7),
        rate: tuple[float, float] = (0.1, 0.3),
        size_sd: Expected = (1.0, 1.0),
        rate_sd: Expected = (0.2, 1.0),
        capacity_sd: Expected = (0.3, 0.7),
        noise_sd: Expected = (0.1, 1.0),
        use_priors: bool = True,
        average: bool = True,
    ) -> None:
        """Say what is expected of the population.

        Args:
            capacity_ml: median capacity of patients: its median, and the standard deviation of its logarithm.
            rate: mean growth of log volumes per year at first: its mean and standard deviation. Growth may be negative.
            size_sd: standard deviation between patients of the first log volume: its median, and the standard deviation
                of its logarithm.
            rate_sd: the same of rates.
            capacity_sd: the same of log capacities.
            noise_sd: the same of measurements.
            use_priors: whether that is a prior, or only where the search starts.
            average: whether forecasts average over what is not known about the variances.
        """
        variances = [positive(expected) for expected in (size_sd, rate_sd, capacity_sd, noise_sd)]
        coefficients = [ANY_SIZE, rate, in_mm3(capacity_ml)]
        super().__init__(coefficients, variances, use_priors=use_priors, average=average)

    def curve(self, coefficients: Tensor, years: Tensor) -> Tensor:
        """See `gompertz_curve`."""
        return gompertz_curve(coefficients, years)


def in_mm3(capacity_ml: Expected) -> tuple[float, float]:
    """Return the prior of the logarithm of a volume in mm^3."""
    median, spread = capacity_ml
    return math.log(1000.0 * median), spread


class OneCapacity(NonlinearGrowth):
    """Base class of curves with a first volume and a rate of each patient, and one capacity."""

    random = (FIRST, RATE)

    def __init__(
        self,
        *,
        capacity_ml: Expected = (80.0, 0.7),
        rate: tuple[float, float] = (0.1, 0.3),
        size_sd: Expected = (1.0, 1.0),
        rate_sd: Expected = (0.2, 1.0),
        noise_sd: Expected = (0.1, 1.0),
        use_priors: bool = True,
        average: bool = True,
    ) -> None:
        """Say what is expected of the population; see `gompertz` for the arguments."""
        variances = [positive(expected) for expected in (size_sd, rate_sd, noise_sd)]
        coefficients = [ANY_SIZE, rate, in_mm3(capacity_ml)]
        super().__init__(coefficients, variances, use_priors=use_priors, average=average)


class OneCapacityGompertz(OneCapacity):
    """Gompertz curves with a first volume and a growth g of each patient, and one capacity, linearised."""

    def curve(self, coefficients: Tensor, years: Tensor) -> Tensor:
        """See `gompertz_curve`."""
        return gompertz_curve(coefficients, years)
