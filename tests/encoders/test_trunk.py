from typing import Any

import pytest
import torch

from menvae.encoders import only_available
from menvae.encoders.trunk import PerModalityStem, ResNetTrunk, SharedStem

SETTINGS: dict[str, Any] = {
    "residual_gain": 1.0,
    "block_means": 2,
    "spectral_norm": False,
    "owner": "encoder=test",
}


def trunk(stem: str, num_modalities: int = 4, base_filters: int = 8) -> ResNetTrunk:
    return ResNetTrunk(num_modalities, (16, 16, 16), base_filters=base_filters, stem=stem, **SETTINGS)  # type: ignore[arg-type]


@pytest.mark.parametrize("spatial", [(), (2, 2, 2)], ids=["rows", "volumes"])
def test_modality_that_is_missing_is_0_whatever_it_holds(spatial: tuple[int, ...]) -> None:
    inputs = torch.full((2, 2, *spatial), torch.nan)
    inputs[0, 1], inputs[1, 0] = 3.0, 4.0
    found = only_available(inputs, torch.tensor([[False, True], [True, False]]))
    expected = torch.tensor([[0.0, 3.0], [4.0, 0.0]])
    assert torch.equal(found, expected.reshape(2, 2, *(1 for _ in spatial)).expand(2, 2, *spatial))
    assert only_available(inputs, None) is inputs


def test_layer_3_has_half_the_channels_on_twice_the_grid() -> None:
    features = trunk("shared")(torch.randn(1, 4, 16, 16, 16))
    assert {name: tuple(x.shape[1:]) for name, x in features.items()} == {
        "layer3": (32, 2, 2, 2),
        "layer4": (64, 1, 1, 1),
        "block_means": (4 * 2**3,),
    }


def test_stem_per_modality_leaves_the_layers_of_run6_as_they_are() -> None:
    shared, own = trunk("shared", 4, 32), trunk("per_modality", 4, 32)
    assert own.layers.state_dict().keys() == shared.layers.state_dict().keys()
    assert all(x.shape == own.layers.state_dict()[name].shape for name, x in shared.layers.state_dict().items())
    assert sum(p.numel() for p in own.stem.parameters()) == 4 * (8 * 27 + 16)


@pytest.mark.parametrize(
    ("num_modalities", "base_filters", "width"), [(4, 32, 8), (4, 16, 8), (3, 64, 24), (1, 16, 16)]
)
def test_stem_per_modality_is_as_wide_as_norms_allow(num_modalities: int, base_filters: int, width: int) -> None:
    stem = PerModalityStem(num_modalities, base_filters, spectral=False)
    assert stem(torch.randn(1, num_modalities, 4, 4, 4), None).shape == (1, num_modalities * width, 2, 2, 2)
    assert stem.out_channels == num_modalities * width


def test_what_is_there_makes_up_for_what_is_missing() -> None:
    stem, inputs = PerModalityStem(4, 32, spectral=False), torch.randn(2, 4, 4, 4, 4)
    whole = stem(inputs, None)
    masked = stem(inputs, torch.tensor([[True, False, False, True], [False, True, False, False]]))
    torch.testing.assert_close(masked[0, :8], 2.0 * whole[0, :8])
    torch.testing.assert_close(masked[0, 24:], 2.0 * whole[0, 24:])
    torch.testing.assert_close(masked[1, 8:16], 4.0 * whole[1, 8:16])
    assert not masked[0, 8:24].any()
    assert not masked[1, :8].any()
    assert not stem(inputs, torch.zeros(2, 4, dtype=torch.bool)).any()


def test_each_modality_has_its_own_channels() -> None:
    stem, inputs = PerModalityStem(2, 16, spectral=False), torch.randn(1, 2, 4, 4, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(stem(inputs, None)[:, :8].sum(), inputs)
    assert gradient[:, 0].any()
    assert not gradient[:, 1].any()


def test_missing_modality_is_a_0_to_a_shared_stem() -> None:
    encoder, inputs = trunk("shared"), torch.randn(2, 4, 16, 16, 16)
    available = torch.tensor([[True, True, False, True], [True, True, True, True]])
    zeros = inputs.clone()
    zeros[0, 2] = 0.0
    for name, tensor in encoder(inputs, available).items():
        assert torch.equal(tensor, encoder(zeros)[name])
    assert isinstance(encoder.stem, SharedStem)
