"""Where `CascadedUNet` looks at full resolution."""

import pytest
import torch
from torch import Tensor

from menvae.encoders.unet import CascadedUNet, _corner_of_crop

SIZE = (32, 16, 48)


def network(crop: float = 0.5) -> CascadedUNet:
    """Return a network that adds 1 to every logit inside its crop, and finds no tumour by itself."""
    torch.manual_seed(0)
    module = CascadedUNet(2, 4, SIZE, base_filters=8, fine_filters=8, fine_layers=1, crop=crop).eval()
    with torch.no_grad():
        for layer, value in ((module.label, 0.0), (module.correct, 1.0)):
            layer.weight.zero_()
            assert layer.bias is not None
            layer.bias.fill_(value)
    return module


def finding(module: CascadedUNet, corner: tuple[int, int, int]) -> None:
    """Make it find a cube of four coarse voxels per side."""
    coarse = torch.zeros(1, 8, *(side // 2 for side in SIZE))
    coarse[:, 0] = -20.0
    first, second, third = corner
    coarse[:, 0, first : first + 4, second : second + 4, third : third + 4] = 20.0
    module.coarse.forward = lambda images: coarse  # type: ignore[method-assign]
    with torch.no_grad():
        module.label.weight[0, 0], module.label.weight[1, 0] = -1.0, 1.0


def corrected(logits: Tensor) -> list[tuple[int, int]]:
    """Return the first voxel with a correction and the one after the last, along each axis."""
    places = (logits[0, 2] > 0.5).nonzero()
    return list(zip(places.amin(dim=0).tolist(), (places.amax(dim=0) + 1).tolist(), strict=True))


@pytest.mark.parametrize(
    ("corner", "expected"),
    [
        ((6, 2, 10), [(8, 24), (4, 12), (12, 36)]),  # about the centre of the cube, voxels 16, 8 and 24
        ((0, 4, 20), [(0, 16), (8, 16), (24, 48)]),  # at the rim of the box
    ],
)
@torch.no_grad()
def test_the_crop_is_about_the_tumour(corner: tuple[int, int, int], expected: list[tuple[int, int]]) -> None:
    module = network()
    finding(module, corner)
    logits = module(torch.randn(1, 2, *SIZE))
    assert corrected(logits) == expected
    inside = logits[0, 2][tuple(slice(*ends) for ends in expected)]
    torch.testing.assert_close(inside, torch.ones_like(inside))
    assert logits[0, 2].sum() == inside.numel()


@torch.no_grad()
def test_without_a_tumour_it_looks_at_the_middle() -> None:
    module = network()
    assert module.label.bias is not None
    module.label.bias[0] = 50.0
    logits = module(torch.randn(1, 2, *SIZE))
    assert corrected(logits) == [(8, 24), (4, 12), (12, 36)]


@torch.no_grad()
def test_the_fine_layers_see_the_voxels_that_they_correct() -> None:
    torch.manual_seed(0)
    module = CascadedUNet(2, 4, SIZE, base_filters=8, fine_filters=8, fine_layers=1, crop=0.5).eval()
    finding(module, (6, 2, 10))
    images = torch.randn(1, 2, *SIZE)
    other = images.clone()
    other[:, :, 10, 6, 14] += 5.0
    change = (module(other) - module(images)).abs().amax(dim=1)[0]
    seen = change[9:12, 5:8, 13:16].clone()
    change[9:12, 5:8, 13:16] = 0.0
    assert seen.max() > 20.0 * change[8:24, 4:12, 12:36].max()


@torch.no_grad()
def test_the_whole_box_may_be_the_crop() -> None:
    module = network(crop=1.0)
    assert (module(torch.randn(2, 2, *SIZE))[:, 2] == 1.0).all()


@torch.no_grad()
def test_half_precision_sees_the_same_crop_of_a_large_box_and_nan_crops_the_middle() -> None:
    logits = torch.zeros(1, 4, 80, 80, 80)
    logits[:, 0] = 10.0
    logits[:, :2, 60:76, 60:76, 60:76] = torch.tensor([-10.0, 10.0])[None, :, None, None, None]
    with torch.autocast("cpu", torch.float16):
        found = _corner_of_crop(logits.half(), (40, 40, 40))
    assert found.tolist() == [[40, 40, 40]] == _corner_of_crop(logits, (40, 40, 40)).tolist()
    logits[:, :2, 60:76, 60:76, 60:76] = torch.tensor([10.0, 0.0])[None, :, None, None, None]
    logits[:, :2, 30:50, 20:40, 40:60] = torch.tensor([-10.0, 10.0])[None, :, None, None, None]
    with torch.autocast("cpu", torch.float16):
        found = _corner_of_crop(logits.half(), (40, 40, 40))
    assert found.tolist() == [[20, 10, 30]]
    assert _corner_of_crop(torch.full_like(logits, torch.nan), (40, 40, 40)).tolist() == [[20, 20, 20]]
