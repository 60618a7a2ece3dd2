"""Information about the targets in each partition."""

from __future__ import annotations

from typing import TYPE_CHECKING

from menvae.pictures import Picture, PictureContext
from menvae.registry import register

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@register("picture", "leak_matrix")
class LeakMatrixPicture(Picture):
    """How well each partition alone predicts each target."""

    file = "leak_matrix.png"
    needs = frozenset({"leaks", "leaking"})
    order = 20
    alt = "leak matrix"
    caption = (
        "A partition should predict its own targets and nothing else; the larger R² of a ridge and a quadratic probe."
    )

    def draw(self, context: PictureContext) -> Figure:
        """Draw a heat map that frames the cells of a partition's own targets, and of leaks."""
        from menvae.pictures.drawing.matrices import draw_leak_matrix

        assert context.leaks is not None
        assert context.leaking is not None
        features = [name for names in context.supervision.values() for name in names]
        title = "What each partition alone predicts (validation R²)"
        rows, own = list(context.layout), context.supervision
        return draw_leak_matrix(context.leaks, rows, features, title, own=own, leaking=context.leaking)
