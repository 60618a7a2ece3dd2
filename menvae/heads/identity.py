"""Identity head: the coordinates of a partition are its predictions."""

from __future__ import annotations

from torch import Tensor, nn

from menvae.errors import UserError
from menvae.registry import register


@register("head", "identity", reference="Exp3, physics-aligned")
class IdentityHead(nn.Module):
    """Train each coordinate to equal one z-scored target, in the order of ``model.supervision.<partition>``."""

    def __init__(self, num_latents: int, num_features: int) -> None:
        """Check that there is one coordinate per target.

        Args:
            num_latents: P, size of the partition.
            num_features: F.

        Raises:
            UserError: P and F differ.
        """
        super().__init__()
        if num_latents != num_features:
            raise UserError(
                f"'identity' maps each coordinate to one target, but there are {num_latents} inputs and "
                f"{num_features} outputs; their numbers must be equal"
            )

    def forward(self, latents: Tensor) -> Tensor:
        """Return the latents [B, F] unchanged."""
        return latents
