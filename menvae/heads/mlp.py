"""Two-layer perceptron from one partition to its targets."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor, nn

from menvae.registry import Field, register


def perceptron(num_inputs: int, num_hidden: int, num_outputs: int, dropout: float) -> nn.Sequential:
    """Return Linear, ReLU, Dropout, Linear, with Xavier normal weights and zero bias."""
    first, last = nn.Linear(num_inputs, num_hidden), nn.Linear(num_hidden, num_outputs)
    for layer in (first, last):
        nn.init.xavier_normal_(layer.weight)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(first, nn.ReLU(), nn.Dropout(dropout), last)


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
        self.layers = perceptron(num_latents, 2 * num_latents, num_features, dropout)

    def forward(self, latents: Tensor) -> Tensor:
        """Latents [B, P] -> z-scored targets [B, F]."""
        out: Tensor = self.layers(latents)
        return out
