"""The contract of every picture, and what this one draws."""

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
