"""Linear projection of a table of features onto the partitions."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from menvae.encoders import Encoder, Features, only_available
from menvae.latent import LatentLayout
from menvae.layers import refuse_volumes
from menvae.registry import Field, register


@register("encoder", "projection", reference="SDP of MenGrowth-Model; Bishop 1995 (input noise)")
class ProjectionEncoder(Encoder):
    """The posterior mean is a linear function of the features, the log variance a constant.

    Tables of frozen features have about as many columns as rows, so that a projection without regularisation fits
    noise. In training, Gaussian noise is added to the standardised features. For a squared error, its expectation is
    that of ridge regression with a penalty of N ``input_noise``^2 for N training rows.
    """

    def __init__(
        self,
        in_channels: int,
        size: tuple[int, ...],
        layout: LatentLayout,
        *,
        input_noise: Annotated[float, Field(ge=0.0)] = 1.0,
        logvar: float = -6.0,
    ) -> None:
        """Build the projection.

        Args:
            in_channels: F, number of columns.
            size: must be empty.
            layout: partitions of z.
            input_noise: standard deviation of the noise, in standard deviations of a column.
            logvar: log variance of every latent.

        Raises:
            UserError: the inputs are volumes.
        """
        super().__init__()
        refuse_volumes(size, "encoder=projection")
        self.input_noise, self.logvar = input_noise, logvar
        self.mean = nn.Linear(in_channels, layout.z_dim)

    def features(self, inputs: Tensor, available: Tensor | None = None) -> Features:
        """Inputs [B, F] -> the same, with noise in training; unavailable values are replaced by 0, their mean."""
        if self.training and self.input_noise:
            inputs = inputs + self.input_noise * torch.randn_like(inputs)
        return {"inputs": only_available(inputs, available)}

    def posterior(self, features: Features, *, isolated: bool = False) -> tuple[Tensor, Tensor]:
        """Features -> mean [B, Z], logvar [B, Z]; each latent reads its own row of the projection."""
        mean: Tensor = self.mean(features["inputs"])
        return mean, torch.full_like(mean, self.logvar)
