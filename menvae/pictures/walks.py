"""Animated latent traversals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from menvae.pictures import Animation, PictureContext
from menvae.registry import register

if TYPE_CHECKING:
    from collections.abc import Iterable

    from matplotlib.figure import Figure


@register("picture", "walks")
class WalksPicture(Animation):
    """Volumes decoded along the leading direction of each partition, as an animation."""

    file = "walks.gif"
    needs = frozenset({"walks", "volumes"})
    order = 31
    alt = "animated traversals"
    caption = "Each row moves along the leading direction of one partition, with all else fixed."

    def frames(self, context: PictureContext) -> Iterable[Figure]:
        """Draw one frame per step, with one row per partition."""
        from menvae.pictures.drawing.swaps import draw_walks

        assert context.walks is not None
        assert context.volumes is not None
        found, volumes = context.walks, context.volumes
        names, modality = list(context.layout), volumes.modalities[0]
        return draw_walks(found.volumes, names, found.steps, modality, "Traversals", volumes.spacing_mm)
