"""Where the time of a training step goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from menvae.pictures import Picture, PictureContext
from menvae.registry import register

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@register("picture", "profile")
class ProfilePicture(Picture):
    """Phases of a step as a stacked bar, and its most expensive operators; needs ``trainer.profile=true``."""

    file = "profile.png"
    needs = frozenset({"profile"})
    section = "training"
    order = 90
    alt = "Profile of a training step"
    caption = "Where the time of a training step goes, measured on some steps after a warm-up."

    def draw(self, context: PictureContext) -> Figure:
        """Draw a stacked bar above bars of operators."""
        from menvae.pictures.drawing.profile import draw_profile

        assert context.profile is not None
        return draw_profile(context.profile)
