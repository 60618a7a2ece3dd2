"""Linear mixed effects with noise that depends on the size of the tumour."""

from __future__ import annotations

from torch import Tensor

from menvae.growth.gaussian import Rows
from menvae.growth.linear import Expected, positive
from menvae.growth.lme import CORRELATION, StraightLines
from menvae.registry import register


@register("growth", "lme_hetero", reference="Pinheiro & Bates 2000, chapter 5")
class HeteroscedasticMixedEffects(StraightLines):
    """As `lme`, with noise_sd * (volume / 10 mL) ^ power as the standard deviation of measurements.

    Small tumours have few voxels, and their log volume has more noise: a power below 0.
    """

    def __init__(
        self,
        *,
        size_sd: Expected = (1.0, 1.0),
        rate_sd: Expected = (0.2, 1.0),
        noise_sd: Expected = (0.1, 1.0),
        power_sd: float = 0.3,
        use_priors: bool = True,
        average: bool = True,
    ) -> None:
        """Say what is expected of the variances.

        Args:
            size_sd: see `lme`.
            rate_sd: see `lme`.
            noise_sd: see `lme`; of a tumour of 10 mL.
            power_sd: standard deviation of the power, which is 0 in the mean.
            use_priors: see `lme`.
            average: see `lme`.
        """
        expected = (positive(size_sd), positive(rate_sd), CORRELATION, positive(noise_sd), (0.0, power_sd))
        super().__init__(*expected, use_priors=use_priors, average=average)

    def noise(self, parameters: Tensor, rows: Rows) -> Tensor:
        """Parameters [L, K] -> variance of measurements [L, N, V], by the mean of the patient's known log volumes."""
        power = parameters[:, 4, None, None]
        return super().noise(parameters, rows) * (2.0 * power * rows.size.unsqueeze(-1)).exp()
