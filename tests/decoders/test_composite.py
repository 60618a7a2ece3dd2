"""What the layers of `CompositeDecoder` read."""

from typing import Any

import pytest
import torch

from menvae.decoders.composite import CompositeDecoder
from menvae.errors import UserError
from menvae.latent import LatentLayout

LAYOUT = LatentLayout({"vol": 3, "residual": 4, "loc": 2})
SIZE = (16, 32, 16)


def decoder(**settings: Any) -> CompositeDecoder:
    torch.manual_seed(0)
    return CompositeDecoder(LAYOUT, 2, SIZE, **{"base_filters": 8, **settings})


def test_labels_change_with_the_head_but_do_not_train_it() -> None:
    module, z = decoder(), torch.randn(2, 9)
    _, drawn = module.draw(z)
    assert drawn["drawn_segmentation"].shape == (2, 4, *SIZE)
    _, of_other_head = module.draw(torch.cat([z[:, :3], torch.randn(2, 4), z[:, 7:]], dim=1))
    assert not torch.allclose(of_other_head["drawn_segmentation"], drawn["drawn_segmentation"], rtol=1e-4)
    drawn["drawn_segmentation"].sum().backward()
    assert all(parameter.grad is None for parameter in module.head.parameters())
    assert module.place.weight.grad is not None


@torch.no_grad()
def test_where_there_is_no_tumour_the_head_is_drawn() -> None:
    module, z = decoder(), torch.randn(2, 9)
    module.last.bias[0] += 100.0
    module.levels.weight.zero_()
    module.average.normal_()
    torch.testing.assert_close(module(z), module.average + module.head(LAYOUT.select(z, "residual")))
    module.last.bias[0] -= 200.0  # tumour everywhere, which is not painted over what is beneath
    module.first.weight[:, -2:] = 0.0
    other = z.clone()
    other[:, 3:7] = torch.randn(2, 4)
    torch.testing.assert_close(module(other), module(z))
    other[:, :3] = torch.randn(2, 3)
    assert not torch.allclose(module(other), module(z), atol=1e-3)


@torch.no_grad()
def test_the_tumour_moves_with_its_centre() -> None:
    module = decoder(stride=1)
    for layer in (*module.codes, module.place, module.first):
        layer.weight.zero_()
    module.first.weight[:, :9] = 1.0  # only the coordinates of the tumour count
    shift = 2.0 / (SIZE[1] - 1)  # a voxel along H
    before = module.draw(torch.zeros(1, 9))[1]["drawn_segmentation"]
    module.place.bias[1] = shift
    after = module.draw(torch.zeros(1, 9))[1]["drawn_segmentation"]
    torch.testing.assert_close(after[:, :, :, 1:], before[:, :, :, :-1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"head_partitions": ["rest"]}, r"decoder\.head_partitions: partition 'rest' does not exist"),
        ({"head_partitions": list(LAYOUT)}, r"decoder\.head_partitions: .* are all; leave one for the tumour"),
        ({"head": {"name": "sbd", "base": 3}}, r"^decoder\.head\.base: no such key"),
        (
            {"head": {"name": "auxiliary"}},
            r"^decoder\.head\.name: 'auxiliary' is not allowed; it outputs \[16, 16",
        ),
        ({"head": {"name": "composite"}}, r"^decoder\.head\.name: 'composite' is not allowed inside another part"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        decoder(**settings)
