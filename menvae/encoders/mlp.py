"""Perceptron encoder for rows of a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor, nn

from menvae.layers import perceptron, refuse_volumes
from menvae.registry import Field, register


@register("encoder", "mlp", reference="lithology design reports")
class MLPEncoder(nn.Module):
    """Linear, ReLU, BatchNorm for each hidden width; linear mean and logvar.

    The batch normalisation is that of the batch of all ranks, in training; GroupNorm is for volumes, of which a batch
    has few.
    """

    def __init__(
        self,
        in_channels: int,
        size: tuple[int, ...],
        z_dim: int,
        *,
        widths: Sequence[Annotated[int, Field(ge=1)]] = (64, 32),
    ) -> None:
        """Build the encoder.

        Args:
            in_channels: F, number of columns.
            size: nothing.
            z_dim: Z.
            widths: of the hidden layers.

        Raises:
            UserError: inputs that are volumes.
        """
        super().__init__()
        refuse_volumes(size, "encoder=mlp")
        self.layers = perceptron([in_channels, *widths])
        num_features = [in_channels, *widths][-1]
        self.mean = nn.Linear(num_features, z_dim)
        self.logvar = nn.Linear(num_features, z_dim)

    def forward(self, inputs: Tensor, available: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Inputs [B, F] -> mean [B, Z], logvar [B, Z], not yet clamped.

        Args:
            inputs: standardised values.
            available: which values count, bool [B, F]; the others are taken as 0, their mean. None: all.
        """
        if available is not None:
            inputs = inputs.masked_fill(~available, 0.0)
        features = self.layers(inputs)
        return self.mean(features), self.logvar(features)
