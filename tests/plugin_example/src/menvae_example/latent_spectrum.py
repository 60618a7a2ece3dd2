"""A picture: the distribution of the latent variance over directions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from menvae.pictures import Picture, PictureContext
from menvae.registry import register

if TYPE_CHECKING:  # matplotlib is imported only for drawing, because every command imports this module
    from matplotlib.figure import Figure


@register("picture", "latent_spectrum")
class LatentSpectrumPicture(Picture):
    """Eigenvalues of the covariance of each partition's posterior means, as fractions, on a logarithmic axis."""

    file = "latent_spectrum.png"
    needs = frozenset({"val"})
    order = 15
    alt = "fraction of the variance by direction"
    caption = "A partition that uses all its dimensions falls slowly; a cliff marks unused dimensions."

    def draw(self, context: PictureContext) -> Figure:
        """Draw one line per partition; a partition that does not vary has none."""
        from menvae.presentation.figures import COLOURS, empty_panel, new_figure, style_axes, tick_locator

        assert context.val is not None  # declared in `needs`
        figure = new_figure(6.0, 4.0, "Fraction of the variance by direction", "eigenvalues of each partition's means")
        axes = figure.add_axes((0.13, 0.14, 0.83, 0.68))
        for number, name in enumerate(context.layout):
            means = context.val.arrays["mean"][:, slice(*context.layout.bounds(name))]
            values = np.linalg.svd(means - means.mean(axis=0), compute_uv=False) ** 2
            values = values[values > 1e-12 * values.sum()]  # N centred rows span N - 1 directions; others are rounding
            if values.size:
                colour, directions = COLOURS[number % len(COLOURS)], np.arange(1, len(values) + 1)
                axes.plot(directions, values / values.sum(), color=colour, marker="o", markersize=3, label=name)
        if not axes.lines:
            empty_panel(axes, "no partition varies")
            return figure
        axes.set_yscale("log")
        axes.set_ylim(min(0.01, axes.get_ylim()[0]), 1.0)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
        style_axes(axes, xlabel="direction, largest first", ylabel="fraction of variance")
        axes.xaxis.set_major_locator(tick_locator(8, integer=True))
        axes.legend(frameon=False, fontsize=8)
        return figure
