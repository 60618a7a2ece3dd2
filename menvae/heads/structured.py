"""A head whose targets share no coordinate."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from menvae.errors import UserError
from menvae.heads.mlp import perceptron
from menvae.registry import Field, register


@register("head", "structured", reference="design report, recommendations")
class StructuredHead(nn.Module):
    """Target i is read by a perceptron of its own from the i-th of F equal blocks of coordinates.

    Each has 2P hidden units, as many as ``mlp`` has for all targets: of the 2P / F that a block of 2 coordinates would
    get, all may start where their ReLU is 0, and such a target is never learnt.
    """

    def __init__(
        self, num_latents: int, num_features: int, *, dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    ) -> None:
        """Build the head.

        Args:
            num_latents: P, size of the partition.
            num_features: F.
            dropout: probability of dropping a hidden unit in training.

        Raises:
            UserError: P is not a multiple of F.
        """
        super().__init__()
        if num_latents % num_features:
            raise UserError(
                f"'structured' gives each output a block of its own, but {num_latents} inputs are no multiple of "
                f"{num_features} outputs; make them {_nearest_multiple(num_latents, num_features)}"
            )
        self.heads = nn.ModuleList(
            perceptron(num_latents // num_features, 2 * num_latents, 1, dropout) for _ in range(num_features)
        )

    def forward(self, latents: Tensor) -> Tensor:
        """Latents [B, P] -> z-scored targets [B, F]."""
        blocks = latents.chunk(len(self.heads), dim=1)
        return torch.cat([head(block) for head, block in zip(self.heads, blocks, strict=True)], dim=1)


def _nearest_multiple(number: int, factor: int) -> int:
    return max(1, round(number / factor)) * factor
