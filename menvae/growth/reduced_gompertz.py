"""Gompertz curves with one capacity for all patients."""

from __future__ import annotations

from torch import Tensor

from menvae.growth.gompertz import ANY_SIZE, FIRST, RATE, gompertz_curve, in_mm3
from menvae.growth.linear import Expected, positive
from menvae.growth.nonlinear import NonlinearGrowth
from menvae.registry import register


@register("growth", "reduced_gompertz", reference="Vaghi et al. 2020")
class ReducedGompertz(NonlinearGrowth):
    """dV/dt = a V ln(K / V) with a first volume and a rate a of each patient, and one capacity K.

    Two or three visits cannot tell a capacity; all patients together can.
    """

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
        """See `gompertz_curve`."""
        return gompertz_curve(coefficients, years)
