"""Head whose targets share no coordinates."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from menvae.errors import UserError
from menvae.heads.mlp import perceptron
from menvae.registry import Field, register


@register("head", "structured", reference="design report, recommendations")
class StructuredHead(nn.Module):
    """Predict target i from the i-th of F equal blocks of coordinates, each with its own perceptron.

    Each perceptron has 2P hidden units, as many as ``mlp`` has for all targets. With only 2P / F, all ReLUs of a block
    of 2 coordinates may start dead, and its target would never be learnt.
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
                f"'structured' gives each output its own block of inputs, but {num_latents} is not a multiple of "
                f"{num_features}; use {_nearest_multiple(num_latents, num_features)} inputs"
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
