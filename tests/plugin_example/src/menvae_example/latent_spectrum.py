"""A picture: along how many directions latents vary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np

from menvae.pictures import Picture, PictureContext
from menvae.registry import Field, register

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@register("picture", "latent_spectrum")
class LatentSpectrumPicture(Picture):
    """Share of the variance of the posterior means along each of their principal directions."""

    file = "latent_spectrum.png"
    needs = frozenset({"val"})
    order = 15  # below the latent scatter of menvae, which is at 10
    alt = "spectrum of the latents"
    caption = "How much of the latents' variance each principal direction holds; equal bars use all dimensions alike."

    def __init__(self, *, num_directions: Annotated[int, Field(ge=1)] = 16) -> None:
        """Args: num_directions: drawn at most."""
        self.num_directions = num_directions

    def draw(self, context: PictureContext) -> Figure:
        """Draw one bar per direction, the largest first."""
        from menvae.presentation.figures import COLOURS, Layout, empty_panel, panel_grid, style_axes

        assert context.val is not None  # declared in `needs`
        mean = context.val.arrays["mean"]
        variances = np.linalg.svd(mean - mean.mean(axis=0), compute_uv=False) ** 2
        layout = Layout(panel=(4.5, 2.4), left=0.8)
        figure, (axes,) = panel_grid(1, 1, layout, "Spectrum of the latents", "Posterior means, validation split")
        if not variances.sum() > 0.0:
            empty_panel(axes, "the latents of all subjects are the same")
            return figure
        shares = (variances / variances.sum())[: self.num_directions]
        axes.bar(np.arange(1, len(shares) + 1), shares, color=COLOURS[0])
        style_axes(axes, xlabel="principal direction", ylabel="share of the variance")
        return figure
