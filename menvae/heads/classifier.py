"""Two-layer perceptron from latents to classes."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor, nn

from menvae.registry import Field, register


@register("head", "classifier", reference="lithology design reports")
class ClassifierHead(nn.Module):
    """Linear(P, h), ReLU, Dropout, Linear(h, K); h does not depend on the number of latents."""

    def __init__(
        self,
        num_latents: int,
        num_features: int,
        *,
        width: Annotated[int, Field(ge=1)] = 64,
        dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.3,
    ) -> None:
        """Build the head.

        Args:
            num_latents: P.
            num_features: K, number of classes.
            width: h, number of hidden units.
            dropout: probability of dropping a hidden unit in training.
        """
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(num_latents, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, num_features)
        )

    def forward(self, latents: Tensor) -> Tensor:
        """Latents [B, P] -> logits [B, K]."""
        logits: Tensor = self.layers(latents)
        return logits
