"""The contract of every picture, and the heights of the bars for latents made by hand."""

from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

from menvae.conformance import PictureConformance
from menvae.latent import LatentLayout
from menvae.metrics import SplitRecord
from menvae.pictures import PictureContext
from menvae.registry import build


class TestLatentSpectrum(PictureConformance):
    names = ("latent_spectrum",)
    variants: ClassVar = {"latent_spectrum": [{}, {"num_directions": 2}]}


def context(mean):
    record = SplitRecord(tuple(map(str, range(len(mean)))), {"mean": np.array(mean)})
    return replace(PictureContext(layout=LatentLayout({"a": len(mean[0])}), supervision={}), val=record)


@pytest.mark.parametrize(
    ("mean", "num_directions", "expected"),
    [
        ([[2.0, 5.0], [-2.0, 5.0], [0.0, 6.0], [0.0, 4.0]], 16, [0.8, 0.2]),  # variances 4 : 1
        ([[2.0, 5.0], [-2.0, 5.0], [0.0, 6.0], [0.0, 4.0]], 1, [0.8]),
        ([[1.0, 2.0], [2.0, 4.0], [3.0, 6.0]], 16, [1.0, 0.0]),
    ],
    ids=["an ellipse", "its first direction", "a line"],
)
def test_bars_are_shares_of_the_variance(mean, num_directions, expected):
    picture = build("picture", {"name": "latent_spectrum", "num_directions": num_directions})
    (axes,) = picture.draw(context(mean)).axes
    assert [bar.get_height() for bar in axes.patches] == pytest.approx(expected, abs=1e-12)


def test_latents_that_do_not_vary_are_named():
    (axes,) = build("picture", {"name": "latent_spectrum"}).draw(context([[1.0, 2.0], [1.0, 2.0]])).axes
    assert not axes.patches
    assert axes.texts[0].get_text() == "the latents of all subjects are the same"
