"""A picture: how the variance of the latents spreads over their directions."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from menvae.pictures import Picture, PictureContext
from menvae.presentation.figures import COLOURS, new_figure, style_axes
from menvae.registry import register


@register("picture", "latent_spectrum")
class LatentSpectrumPicture(Picture):
    """Eigenvalues of the covariance of the posterior means of each partition, as shares, on a logarithmic axis."""

    file = "latent_spectrum.png"
    needs = frozenset({"val"})
    order = 15
    alt = "share of the variance by direction"
    caption = "A partition that fills its dimensions falls slowly; a cliff is a partition with fewer than it was given."

    def draw(self, context: PictureContext) -> Figure:
        """Draw one line a partition; a partition that does not vary has none."""
        assert context.val is not None
        figure = new_figure(6.0, 4.0, "Share of the variance by direction", "eigenvalues of each partition's means")
        axes = figure.add_axes((0.13, 0.14, 0.83, 0.68))
        style_axes(axes)
        for number, name in enumerate(context.layout):
            means = context.val.arrays["mean"][:, slice(*context.layout.bounds(name))]
            values = np.linalg.svd(means - means.mean(axis=0), compute_uv=False) ** 2
            if values.sum() > 0.0:
                axes.plot(
                    np.arange(1, len(values) + 1),
                    values / values.sum(),
                    color=COLOURS[number % len(COLOURS)],
                    marker="o",
                    markersize=3,
                    label=name,
                )
        axes.set_yscale("log")
        axes.set_xlabel("direction, largest first")
        axes.set_ylabel("share")
        if axes.lines:
            axes.legend(frameon=False)
        else:
            axes.text(0.5, 0.5, "no partition varies", ha="center", va="center", transform=axes.transAxes)
            axes.axhline(1.0, color=COLOURS[-1])
        return figure
