"""A linear map from one partition to its targets."""

from __future__ import annotations

from torch import Tensor, nn

from menvae.registry import register


@register("head", "linear")
class LinearHead(nn.Module):
    """Linear(P, F), so that each target is a direction in latent space; Xavier normal weights, zero bias."""

    def __init__(self, num_latents: int, num_features: int) -> None:
        """Args: num_latents: P, size of the partition. num_features: F."""
        super().__init__()
        self.layer = nn.Linear(num_latents, num_features)
        nn.init.xavier_normal_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, latents: Tensor) -> Tensor:
        """Latents [B, P] -> z-scored targets [B, F]."""
        out: Tensor = self.layer(latents)
        return out
