"""The schedule of each term of the objective."""

from __future__ import annotations

from typing import TYPE_CHECKING

from menvae.pictures import Picture, PictureContext
from menvae.registry import register

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@register("picture", "schedule")
class SchedulePicture(Picture):
    """Weight times schedule of every term, and the learning rate, against the epoch."""

    file = "schedule.png"
    when = "before_training"
    needs = frozenset({"schedules"})
    section = "training"
    order = 20
    alt = "Curriculum"
    caption = "When each term of the objective acts, as planned before training."

    def draw(self, context: PictureContext) -> Figure:
        """Draw one row per term."""
        from menvae.pictures.drawing.curves import draw_schedule

        assert context.schedules is not None
        return draw_schedule(context.schedules.weights, context.schedules.learning_rate)
