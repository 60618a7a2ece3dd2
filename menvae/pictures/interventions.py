"""What a frozen reader sees change when a partition is moved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from menvae.pictures import Picture, PictureContext
from menvae.registry import register

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@register("picture", "interventions")
class InterventionsPicture(Picture):
    """How much each feature changes when one partition becomes that of another patient."""

    file = "interventions.png"
    needs = frozenset({"interventions"})
    order = 33
    alt = "interventions"
    caption = (
        "Each partition should change its own features and no other. The R² of the reader, and its noise, the largest "
        "change that its errors alone may cause, are those on images of the same split."
    )

    def draw(self, context: PictureContext) -> Figure:
        """Draw a heat map of partitions and features, with the noise of the reader as its last row."""
        from menvae.pictures.drawing.matrices import draw_interventions

        assert context.interventions is not None
        title = "Features read from images decoded with one partition of another patient"
        return draw_interventions(context.interventions, context.supervision, title)
