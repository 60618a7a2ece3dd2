"""Metrics over the course of training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from menvae.pictures import Picture, PictureContext
from menvae.registry import register

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@register("picture", "training_curves")
class TrainingCurvesPicture(Picture):
    """Losses, R2, dependence of partitions, use of the latent space and gradients against the epoch."""

    file = "training_curves.png"
    needs = frozenset({"metrics", "gates"})
    section = "training"
    order = 10
    alt = "Curves of the metrics against the epoch"

    def draw(self, context: PictureContext) -> Figure:
        """Draw nine panels."""
        from menvae.pictures.drawing.curves import draw_training_curves

        assert context.metrics is not None
        assert context.gates is not None
        return draw_training_curves(context.metrics, context.gates)
