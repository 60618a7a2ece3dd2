"""Predictions of the semantic heads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from menvae.pictures import Picture, PictureContext
from menvae.registry import register

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@register("picture", "regression")
class RegressionPicture(Picture):
    """Predicted against true targets in physical units."""

    file = "regression.png"
    needs = frozenset({"targets"})
    order = 40
    alt = "regression"
    caption = "Predictions of the semantic heads in physical units; perfect predictions lie on the line."

    def draw(self, context: PictureContext) -> Figure:
        """Draw one panel per feature."""
        from menvae.pictures.drawing.latent import draw_regression
        from menvae.presentation.text import split_words

        assert context.targets is not None
        targets = context.targets
        return draw_regression(targets.true, targets.predicted, targets.units, targets.r2, split_words(context.split))
