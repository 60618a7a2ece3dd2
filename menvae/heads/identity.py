"""No head at all: the coordinates of a partition are its predictions."""

from __future__ import annotations

from torch import Tensor, nn

from menvae.errors import UserError
from menvae.registry import register


@register("head", "identity", reference="Exp3, physics-aligned")
class IdentityHead(nn.Module):
    """Each coordinate is trained to be one z-scored target, in the order of ``model.supervision.<partition>``."""

    def __init__(self, num_latents: int, num_features: int) -> None:
        """Check that there is a coordinate for each target.

        Args:
            num_latents: P, size of the partition.
            num_features: F.

        Raises:
            UserError: P is not F.
        """
        super().__init__()
        if num_latents != num_features:
            raise UserError(
                f"'identity' reads one target from each coordinate, but there are {num_latents} inputs and "
                f"{num_features} outputs; make them as many"
            )

    def forward(self, latents: Tensor) -> Tensor:
        """Latents [B, F] -> the same."""
        return latents
