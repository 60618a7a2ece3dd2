"""Gompertz curves with one capacity for all patients."""

from __future__ import annotations

from torch import Tensor

from menvae.growth.gompertz import OneCapacity, gompertz_curve
from menvae.registry import register


@register("growth", "reduced_gompertz", reference="Vaghi et al. 2020")
class ReducedGompertz(OneCapacity):
    """dV/dt = a V ln(K / V) with a first volume and a rate a of each patient, and one capacity K.

    Two or three visits cannot tell a capacity; all patients together can.
    """

    def curve(self, coefficients: Tensor, years: Tensor) -> Tensor:
        """See `gompertz_curve`."""
        return gompertz_curve(coefficients, years)
