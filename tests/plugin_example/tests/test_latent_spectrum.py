"""Contract of every picture, and the content of this one."""

import numpy as np
import pytest

from menvae.conformance import PictureConformance
from menvae.latent import LatentLayout
from menvae.metrics import SplitRecord
from menvae.pictures import PictureContext
from menvae.registry import build


class TestLatentSpectrum(PictureConformance):
    names = ("latent_spectrum",)


def test_lines_are_the_shares_of_the_eigenvalues():
    mean = np.array([[3.0, 0.0, 1.0], [-3.0, 0.0, 1.0], [0.0, 1.0, 1.0], [0.0, -1.0, 1.0]])
    layout = LatentLayout({"vol": 2, "residual": 1})
    context = PictureContext(layout=layout, supervision={}, val=SplitRecord(tuple("abcd"), {"mean": mean}))
    figure = build("picture", {"name": "latent_spectrum"}).draw(context)
    (line,) = figure.axes[0].lines  # the residual does not vary
    assert line.get_label() == "vol"
    assert line.get_ydata() == pytest.approx([0.9, 0.1])


def test_directions_that_only_rounding_fills_are_not_drawn():
    mean = np.random.default_rng(0).normal(size=(4, 8))
    context = PictureContext(
        layout=LatentLayout({"vol": 8}), supervision={}, val=SplitRecord(tuple("abcd"), {"mean": mean})
    )
    (line,) = build("picture", {"name": "latent_spectrum"}).draw(context).axes[0].lines
    assert list(line.get_xdata()) == [1, 2, 3]  # four centred rows span three directions


def test_latents_that_do_not_vary_are_named():
    record = SplitRecord(("a", "b"), {"mean": np.ones((2, 3))})
    context = PictureContext(layout=LatentLayout({"vol": 3}), supervision={}, val=record)
    (axes,) = build("picture", {"name": "latent_spectrum"}).draw(context).axes
    assert not axes.lines
    assert axes.texts[0].get_text() == "no partition varies"
