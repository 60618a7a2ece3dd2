"""What the partitions of `SegmentingEncoder` see, and what they cannot."""

from typing import Any

import pytest
import torch
from torch import Tensor

from menvae.encoders.segmenting import NUM_LABELS, SegmentingEncoder, deviation_from, without_tumour
from menvae.errors import UserError
from menvae.latent import LatentLayout

LAYOUT = LatentLayout({"vol": 5, "loc": 3, "shape": 6, "residual": 4})
SIZE = (32, 32, 32)


def encoder(**settings: Any) -> SegmentingEncoder:
    torch.manual_seed(0)
    return SegmentingEncoder(2, SIZE, LAYOUT, **settings).eval()


def heads(rows: int = 2) -> Tensor:
    """Noise in a head of 24 voxels per side."""
    torch.manual_seed(1)
    images = torch.zeros(rows, 2, *SIZE)
    images[:, :, 4:28, 4:28, 4:28] = torch.randn(rows, 2, 24, 24, 24) + 0.01
    return images


def labelled(tumour: Tensor) -> Tensor:
    """Return logits [B, K, D, H, W] that are certain of a tumour, bool [B, D, H, W]."""
    logits = torch.zeros(len(tumour), NUM_LABELS, *tumour.shape[1:])
    logits[:, 0], logits[:, 3] = 20.0 * ~tumour, 20.0 * tumour
    return logits


def with_labels(module: SegmentingEncoder, logits: Tensor) -> None:
    module.segment.forward = lambda images: logits  # type: ignore[method-assign]


def tumour_at(*corner: int, side: int = 6) -> Tensor:
    region = torch.zeros(2, *SIZE, dtype=torch.bool)
    region[:, corner[0] : corner[0] + side, corner[1] : corner[1] + side, corner[2] : corner[2] + side] = True
    return region


def commit(module: SegmentingEncoder, images: Tensor) -> None:
    module.commit(module.features(images))


@torch.no_grad()
def test_the_residual_does_not_know_what_is_inside_the_tumour() -> None:
    module, images, region = encoder(), heads(), tumour_at(18, 8, 10)
    with_labels(module, labelled(region))
    plain = module(images)[0]
    bright = torch.where(region.unsqueeze(1), 100.0 + 10.0 * torch.randn_like(images), images)
    found = module(bright)[0]
    torch.testing.assert_close(LAYOUT.select(found, "residual"), LAYOUT.select(plain, "residual"), rtol=1e-4, atol=1e-5)
    elsewhere = images.clone()
    elsewhere[:, :, 20:26, 20:26, 20:26] += 3.0
    assert not torch.allclose(
        LAYOUT.select(module(elsewhere)[0], "residual"), LAYOUT.select(plain, "residual"), rtol=1e-2
    )


@torch.no_grad()
def test_measured_partitions_know_the_labels_alone() -> None:
    module, images = encoder(), heads()
    with_labels(module, labelled(tumour_at(18, 8, 10)))
    first, second = module(images)[0], module(3.0 * images + images.square())[0]
    for name in ("vol", "loc", "shape"):
        torch.testing.assert_close(LAYOUT.select(first, name), LAYOUT.select(second, name))
    with_labels(module, labelled(tumour_at(6, 8, 10)))  # another place, the same size
    moved = module(images)[0]
    assert not torch.allclose(LAYOUT.select(moved, "loc"), LAYOUT.select(first, "loc"), rtol=1e-2)
    for name in ("vol", "shape"):
        torch.testing.assert_close(LAYOUT.select(moved, name), LAYOUT.select(first, name), rtol=1e-4, atol=1e-3)


@torch.no_grad()
def test_the_other_hemisphere_takes_the_place_of_the_tumour() -> None:
    module, region = encoder(others_stride=1), tumour_at(18, 8, 10)
    seen: list[Tensor] = []
    module.others.features = lambda inputs, available: seen.append(inputs) or {}  # type: ignore[method-assign,func-returns-value]
    with_labels(module, labelled(region))
    module.features(heads())
    (image,) = seen
    torch.testing.assert_close(image[:, :, 18:24, 8:14, 10:16], image.flip(2)[:, :, 18:24, 8:14, 10:16])
    assert image[:, :, 18:24, 8:14, 10:16].abs().max() > 0.1
    both = region | region.flip(1)
    with_labels(module, labelled(both))
    module.features(heads())
    assert seen[1][:, :, 18:24, 8:14, 10:16].abs().max() == 0.0


def test_a_head_like_the_average_does_not_deviate_wherever_its_tumour_is() -> None:
    torch.manual_seed(0)
    usual = torch.randn(2, 8, 8, 8) + torch.linspace(-2.0, 2.0, 8)  # tissues with places of their own
    for corner in ((0, 0, 0), (2, 2, 5)):
        weight = torch.ones(1, 1, 8, 8, 8)
        weight[:, :, corner[0] : corner[0] + 3, corner[1] : corner[1] + 3, corner[2] : corner[2] + 3] = 0.0
        inside = usual[:, weight[0, 0] > 0]
        scanner = 1.7 * usual - 0.4
        normal = (scanner - inside.mean(dim=1)[:, None, None, None]) / inside.std(dim=1)[:, None, None, None]
        found = deviation_from(usual, normal.unsqueeze(0), weight)
        torch.testing.assert_close(found, torch.zeros_like(found), rtol=0.0, atol=5e-3)
    other = normal.unsqueeze(0) + 0.3 * torch.randn(1, 2, 8, 8, 8)
    assert deviation_from(usual, other, weight).std() > 0.1


@torch.no_grad()
def test_the_average_head_is_that_of_the_batches() -> None:
    module, images, region = encoder(others_stride=1), heads(6), tumour_at(18, 8, 10)
    with_labels(module, labelled(region))
    for first in (0, 2, 4):
        commit(module, images[first : first + 2])
    shares = labelled(region).softmax(dim=1)
    pieces = [without_tumour(images[first : first + 2], shares, 1) for first in (0, 2, 4)]
    weights = torch.cat([weight for _, weight, _ in pieces])
    expected = (torch.cat([normal for normal, _, _ in pieces]) * weights).mean(dim=0)
    torch.testing.assert_close(module.average.value, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(module.average_weight.value[0], weights.mean(dim=0)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"measured": {"volume": "volume"}}, r"encoder\.measured: partition 'volume' does not exist"),
        ({"measured": dict.fromkeys(LAYOUT, "shape")}, r"encoder\.measured: .* are all partitions; leave one"),
        ({"others": {"name": "resnet", "base": 3}}, r"encoder\.others\.base: no such key"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        encoder(**settings)
