"""Perceptron encoder for the rows of a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor, nn

from menvae.encoders import Encoder, Features, only_available
from menvae.latent import LatentLayout
from menvae.layers import perceptron, refuse_volumes
from menvae.registry import Field, register


@register("encoder", "mlp", reference="lithology design reports")
class MLPEncoder(Encoder):
    """Linear, ReLU, BatchNorm for each hidden width, then linear mean and logvar.

    In training, batch normalisation uses the statistics of the batch of all ranks.
    """

    def __init__(
        self,
        in_channels: int,
        size: tuple[int, ...],
        layout: LatentLayout,
        *,
        widths: Sequence[Annotated[int, Field(ge=1)]] = (64, 32),
    ) -> None:
        """Build the encoder.

        Args:
            in_channels: F, number of columns.
            size: must be empty.
            layout: partitions of z.
            widths: widths of the hidden layers.

        Raises:
            UserError: the inputs are volumes.
        """
        super().__init__()
        refuse_volumes(size, "encoder=mlp")
        self.layers = perceptron([in_channels, *widths])
        num_features = [in_channels, *widths][-1]
        self.mean = nn.Linear(num_features, layout.z_dim)
        self.logvar = nn.Linear(num_features, layout.z_dim)

    def features(self, inputs: Tensor, available: Tensor | None = None) -> Features:
        """Inputs [B, F] -> the last hidden layer [B, width].

        Args:
            inputs: standardised values.
            available: available values, bool [B, F]; None: all. The others are replaced by 0, their mean.
        """
        return {"hidden": self.layers(only_available(inputs, available))}

    def posterior(self, features: Features, *, isolated: bool = False) -> tuple[Tensor, Tensor]:
        """Features -> mean [B, Z], logvar [B, Z]; each latent reads its own row of the linear layers."""
        return self.mean(features["hidden"]), self.logvar(features["hidden"])
