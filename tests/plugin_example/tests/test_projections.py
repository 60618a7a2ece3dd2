"""Contract of every encoder, and the axis of each view."""

from typing import ClassVar

import pytest
import torch

from menvae.conformance import EncoderConformance
from menvae.latent import LatentLayout
from menvae.registry import build


class TestProjections(EncoderConformance):
    names = ("projections",)
    variants: ClassVar = {"projections": [{}, {"projection": "maximum", "num_halvings": 1}]}


@pytest.mark.parametrize("projection", ["mean", "maximum"])
@pytest.mark.parametrize(("axis", "name"), [(2, "sagittal"), (3, "coronal"), (4, "axial")])
def test_order_of_the_slices_is_lost_along_the_axis_of_a_view_and_no_other(axis, name, projection):
    encoder = build(
        "encoder", {"name": "projections", "projection": projection}, 2, (16, 24, 32), LatentLayout({"a": 3})
    )
    inputs = torch.randn(1, 2, 16, 24, 32)
    before, after = encoder.features(inputs), encoder.features(inputs.flip(axis))
    unchanged = {view for view in before if torch.allclose(before[view], after[view], atol=1e-5)}
    assert unchanged == {name}
