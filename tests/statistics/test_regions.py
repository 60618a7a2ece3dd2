"""Measures of label maps beside `mask_features`, which measures masks with numpy."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from menvae.data.masks.features import mask_features
from menvae.data.phantom.head import phantom_subject
from menvae.statistics.regions import NUM_SHAPE_MEASURES, OF_CORE, RegionMeter

WIDTHS = slice(13, 26)


def shares_of(labels: Tensor) -> Tensor:
    return one_hot(labels.long(), 4).movedim(-1, 1).float()


@pytest.fixture(scope="module")
def masks() -> Tensor:
    spacing_mm = (6.25, 6.25, 6.25)
    return torch.stack([torch.from_numpy(phantom_subject(3, index, spacing_mm).mask) for index in range(12)])


def test_certain_labels_are_measured_as_masks_are(masks: Tensor) -> None:
    volume, location, shape = RegionMeter()(shares_of(masks))
    for row, mask in enumerate(masks.numpy()):
        known = mask_features(mask, (1.0, 1.0, 1.0))
        for place, name in enumerate(("vol_total", "vol_ncr", "vol_ed", "vol_et")):
            voxels = 0.0 if known[name] is None else math.exp(known[name] or 0.0) - 1.0
            expected = (math.log(voxels / mask.size + 2e-5) + 6.0) / 1.5
            assert volume[row, place].item() == pytest.approx(max(-5.0, expected), abs=1e-4)
        where = [known[name] for name in ("loc_x", "loc_y", "loc_z")]
        np.testing.assert_allclose(0.15 * location[row].numpy() + 0.5, where, atol=1e-4)
        assert 0.06 * shape[row, 3].item() + 0.8 == pytest.approx(known["sphericity_total"], abs=1e-5)
        assert math.exp(0.3 * shape[row, 6].item()) == pytest.approx(known["aspect_xy_total"], rel=1e-5)
        if known["sphericity_ncr"] is not None:
            assert 0.06 * shape[row, OF_CORE.start].item() + 0.8 == pytest.approx(known["sphericity_ncr"], abs=1e-5)


def test_widths_are_those_of_the_voxels_one_by_one() -> None:
    region = torch.rand(3, 6, 7, 5, generator=torch.Generator().manual_seed(0)) > 0.9
    found = RegionMeter()(shares_of(region)).shape[:, WIDTHS]
    axes = [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    planes = [(1, 1, 0), (1, -1, 0), (1, 0, 1), (1, 0, -1), (0, 1, 1), (0, 1, -1)]
    space = [(1, 1, 1), (1, 1, -1), (1, -1, 1), (1, -1, -1)]
    for row, mask in enumerate(region.numpy()):
        side = np.log(mask.sum()) / 3.0
        for place, direction in enumerate([*axes, *planes, *space]):
            along = np.argwhere(mask) @ np.array(direction) / np.linalg.norm(direction)
            expected = (np.log(np.ptp(along) + 1.0) - side - 0.3) / 0.25
            assert found[row, place].item() == pytest.approx(min(5.0, expected), abs=1e-4)


def test_second_moments_of_an_ellipsoid_and_place_and_size_do_not_matter_to_shape() -> None:
    grid = torch.stack(torch.meshgrid(*[torch.arange(40.0)] * 3, indexing="ij"))
    radii = torch.tensor([12.0, 8.0, 8.0])

    def ellipsoid(scale: float, centre: tuple[float, float, float]) -> Tensor:
        away = (grid - torch.tensor(centre)[:, None, None, None]) / (scale * radii)[:, None, None, None]
        return (away.square().sum(dim=0) < 1.0).int()

    _, _, shape = RegionMeter()(shares_of(torch.stack([ellipsoid(1.0, (20, 20, 20)), ellipsoid(0.7, (18, 22, 24))])))
    moments = shape[:, 7:13] * 0.04 + torch.tensor([0.08, 0.0, 0.0, 0.08, 0.0, 0.08])
    of_volume = (4.0 / 3.0 * math.pi * radii.prod()) ** (2.0 / 3.0)
    expected = torch.tensor([144.0, 0.0, 0.0, 64.0, 0.0, 64.0]) / 5.0 / of_volume
    torch.testing.assert_close(moments, expected.expand(2, 6), atol=2e-3, rtol=0.02)


def test_no_tumour_is_measured_too_and_nothing_has_a_gradient() -> None:
    shares = shares_of(torch.zeros(2, 8, 8, 8)).requires_grad_()
    measures = RegionMeter()(shares)
    assert all(torch.isfinite(one).all() and not one.requires_grad for one in measures)
    assert measures.shape.shape == (2, NUM_SHAPE_MEASURES)
    assert measures.location.abs().max() < 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_does_not_matter(masks: Tensor, dtype: torch.dtype) -> None:
    large = torch.nn.functional.interpolate(shares_of(masks[:2]), scale_factor=3) * 0.9 + 0.025  # a little everywhere
    meter = RegionMeter()
    expected = meter(large)
    with torch.autocast("cpu", dtype):
        found = meter(large)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_place_does_not_matter_to_the_soft_area() -> None:
    corner = torch.zeros(1, 9, 9, 9)
    corner[:, :3, :3, :3] = 3.0
    middle = corner.roll((3, 3, 3), dims=(1, 2, 3))
    areas = [RegionMeter()(shares_of(region)).shape[0, 1].item() for region in (corner, middle)]
    assert areas[0] == pytest.approx(areas[1], rel=1e-5)
