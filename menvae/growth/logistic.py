"""Logistic curves with one capacity for all patients."""

from __future__ import annotations

import torch
from torch import Tensor

from menvae.growth.gompertz import OneCapacity, first_rate_room
from menvae.registry import register


@register("growth", "logistic", reference="Verhulst 1838")
class Logistic(OneCapacity):
    """dV/dt = r V (1 - V / K) with a first volume and a rate r of each patient, and one capacity K."""

    def curve(self, coefficients: Tensor, years: Tensor) -> Tensor:
        """First log volume, growth per year at first, log capacity [..., 3], years [..., V] -> log volumes [..., V]."""
        first, rate, room = first_rate_room(coefficients)
        far = rate.clamp(min=0.0) / -torch.expm1(-room)  # growth per year far below the capacity
        growing = room - torch.log1p(torch.expm1(room) * (-far * years).exp())
        return first + torch.where(rate > 0.0, growing, rate * years)
