"""Calibration of the predicted targets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from menvae.pictures import Picture, PictureContext
from menvae.registry import register

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@register("picture", "calibration")
class CalibrationPicture(Picture):
    """Observed against nominal coverage of the predictive intervals of each partition."""

    file = "calibration.png"
    needs = frozenset({"calibration"})
    order = 50
    alt = "calibration"
    caption = (
        "Share of targets inside their predictive intervals. Below the diagonal, the model is overconfident; above it, "
        "too cautious."
    )

    def draw(self, context: PictureContext) -> Figure:
        """Draw one panel per partition."""
        from menvae.pictures.drawing.calibration import draw_calibration

        from menvae.presentation.text import split_words

        assert context.calibration is not None
        return draw_calibration(context.calibration, split_words(context.split))
