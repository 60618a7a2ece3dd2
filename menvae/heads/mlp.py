"""Two-layer perceptron from one partition to its targets."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor, nn

from menvae.registry import Field, register


@register("head", "mlp", reference="SemiVAE Run 6")
class MLPHead(nn.Module):
    """Linear(P, 2P), ReLU, Dropout, Linear(2P, F); Xavier normal weights, zero bias."""

    def __init__(
        self, num_latents: int, num_features: int, *, dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    ) -> None:
        """Build the head.

        Args:
            num_latents: P, size of the partition.
            num_features: F.
            dropout: probability of dropping a hidden unit in training.
        """
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(num_latents, 2 * num_latents),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(2 * num_latents, num_features),
        )
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, latents: Tensor) -> Tensor:
        """Latents [B, P] -> z-scored targets [B, F]."""
        out: Tensor = self.layers(latents)
        return out
