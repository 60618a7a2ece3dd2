"""Partitions swapped between patients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from menvae.pictures import Picture, PictureContext
from menvae.registry import register

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@register("picture", "swaps")
class SwapsPicture(Picture):
    """Patients decoded with each partition of another patient."""

    file = "swaps.png"
    needs = frozenset({"swaps", "volumes"})
    order = 32
    alt = "swaps"
    caption = (
        "What the decoder changes when one partition of A becomes that of B: it should be what the partition names."
    )

    def draw(self, context: PictureContext) -> Figure:
        """Draw one row per pair of patients."""
        from menvae.pictures.drawing.swaps import draw_swaps

        assert context.swaps is not None
        assert context.volumes is not None
        title = "Patient A decoded with each partition of patient B"
        found, volumes = context.swaps, context.volumes
        names = list(context.layout)
        return draw_swaps(found.volumes, names, found.subjects, volumes.modalities[0], title, volumes.spacing_mm)
