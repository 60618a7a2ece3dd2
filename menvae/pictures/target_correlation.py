"""Correlation of the targets, before training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from menvae.pictures import Picture, PictureContext
from menvae.registry import register

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@register("picture", "target_correlation")
class TargetCorrelationPicture(Picture):
    """Correlation of the regression targets, as measured and residualised."""

    file = "target_correlation.png"
    when = "before_training"
    needs = frozenset({"correlation"})
    section = "trained"
    order = 10
    alt = "Correlation of the targets"
    caption = "Partitions whose targets are strongly correlated cannot be independent, whatever the objective."

    def draw(self, context: PictureContext) -> Figure:
        """Draw both matrices in one."""
        from menvae.pictures.drawing.matrices import draw_target_correlation

        assert context.correlation is not None
        return draw_target_correlation(
            context.correlation.before, context.correlation.after, context.correlation.partitions
        )
