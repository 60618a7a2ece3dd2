"""Logistic curves with one capacity for all patients."""

from __future__ import annotations

import torch
from torch import Tensor

from menvae.growth.gompertz import ANY_SIZE, FIRST, RATE, first_rate_room, in_mm3
from menvae.growth.linear import Expected, positive
from menvae.growth.nonlinear import NonlinearGrowth
from menvae.registry import register


@register("growth", "logistic", reference="Verhulst 1838")
class Logistic(NonlinearGrowth):
    """dV/dt = r V (1 - V / K) with a first volume and a rate r of each patient, and one capacity K."""

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

    def curve(self, coefficients: Tensor, years: Tensor) -> Tensor:
        """First log volume, growth per year at first, log capacity [..., 3], years [..., V] -> log volumes [..., V]."""
        first, rate, room = first_rate_room(coefficients)
        far = rate.clamp(min=0.0) / -torch.expm1(-room)  # growth per year far below the capacity
        growing = room - torch.log1p(torch.expm1(room) * (-far * years).exp())
        return first + torch.where(rate > 0.0, growing, rate * years)
