"""The latent space, partition by partition."""

from __future__ import annotations

from typing import TYPE_CHECKING

from menvae.pictures import Picture, PictureContext
from menvae.registry import register

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@register("picture", "latent_scatter")
class LatentScatterPicture(Picture):
    """Posterior means of every partition on its own first two principal components."""

    file = "latent_scatter.png"
    needs = frozenset({"val"})
    order = 10
    alt = "latent scatter"
    caption = "Every partition on its own first two principal components, coloured by a target or class."

    def draw(self, context: PictureContext) -> Figure:
        """Draw a panel for each partition, coloured by its first target, or by class if it has none."""
        import numpy as np

        from menvae.pictures.drawing.latent import draw_latent_scatter
        from menvae.presentation.text import split_words

        assert context.val is not None
        arrays = context.val.arrays
        latents = {name: arrays["mean"][:, slice(*context.layout.bounds(name))] for name in context.layout}
        colours = {}
        for partition, names in context.supervision.items():
            if names:
                z_scores, observed = arrays[f"targets.{partition}"][:, 0], arrays[f"observed.{partition}"][:, 0]
                colours[partition] = (f"{names[0]} (z-score)", np.where(observed > 0, z_scores, np.nan))
        labels = arrays.get("labels")
        if labels is not None:
            of_classes = (f"class index, 0 to {len(context.classes) - 1}", np.where(labels < 0, np.nan, labels))
            colours = {partition: colours.get(partition, of_classes) for partition in context.layout}
        return draw_latent_scatter(latents, colours, split_words(context.split))
