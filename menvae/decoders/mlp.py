"""Perceptron decoder for the rows of a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor, nn

from menvae.decoders import Decoder
from menvae.latent import LatentLayout
from menvae.layers import perceptron, refuse_volumes
from menvae.registry import Field, register


@register("decoder", "mlp", reference="lithology design reports")
class MLPDecoder(Decoder):
    """Linear, ReLU, BatchNorm for each hidden width, then a linear layer to the columns."""

    def __init__(
        self,
        layout: LatentLayout,
        out_channels: int,
        size: tuple[int, ...],
        *,
        widths: Sequence[Annotated[int, Field(ge=1)]] = (32, 64),
    ) -> None:
        """Build the decoder.

        Args:
            layout: partitions of z.
            out_channels: F, number of columns.
            size: must be empty.
            widths: widths of the hidden layers.

        Raises:
            UserError: the inputs are volumes.
        """
        super().__init__()
        refuse_volumes(size, "decoder=mlp")
        self.output_size = size
        sizes = [layout.z_dim, *widths]
        self.layers = perceptron(sizes)
        self.output = nn.Linear(sizes[-1], out_channels)

    def forward(self, z: Tensor) -> Tensor:
        """Z [B, Z] -> standardised values [B, F]."""
        values: Tensor = self.output(self.layers(z))
        return values
