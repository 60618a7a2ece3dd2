"""Latent traversals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from menvae.pictures import Picture, PictureContext
from menvae.registry import register

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@register("picture", "traversals")
class TraversalsPicture(Picture):
    """Volumes decoded along the leading direction of each partition."""

    file = "traversals.png"
    needs = frozenset({"traversals", "volumes"})
    order = 30
    alt = "traversals"
    caption = "What the decoder changes along the leading direction of each partition, with all else fixed."

    def draw(self, context: PictureContext) -> Figure:
        """Draw one row per partition."""
        from menvae.pictures.drawing.volumes import draw_traversals

        assert context.traversals is not None
        assert context.volumes is not None
        title = "Decoded along the leading direction of each partition (standard deviations)"
        found, volumes = context.traversals, context.volumes
        rows = list(context.layout)
        return draw_traversals(found.volumes, rows, found.steps, volumes.modalities[0], title, volumes.spacing_mm)
