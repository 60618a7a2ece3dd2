from typing import Any

import pytest
import torch
from torch import Tensor

from menvae.encoders.product_of_experts import ProductOfExperts
from menvae.errors import UserError
from menvae.latent import LatentLayout

LAYOUT = LatentLayout({"vol": 2, "residual": 3})
SIZE = (16, 16, 16)
EXPERT = {"name": "resnet", "base_filters": 8, "initial_logvar": None}


def product(**settings: Any) -> ProductOfExperts:
    return ProductOfExperts(3, SIZE, LAYOUT, **{"expert": EXPERT, **settings}).eval()


def test_precisions_of_experts_and_prior_add_up() -> None:
    encoder, inputs = product(), torch.randn(2, 3, *SIZE)
    available = torch.tensor([[True, True, True], [True, False, True]])
    mean, logvar = encoder(inputs, available)
    for row in range(2):
        precision, weighted = torch.ones(5), torch.zeros(5)
        for modality in range(3):
            if available[row, modality]:
                own_mean, own_logvar = encoder.experts[modality](inputs[row : row + 1, modality : modality + 1])
                precision = precision + 1.0 / own_logvar[0].exp()
                weighted = weighted + own_mean[0] / own_logvar[0].exp()
        torch.testing.assert_close(mean[row], weighted / precision)
        torch.testing.assert_close(logvar[row], -precision.log(), rtol=1e-4, atol=1e-5)


def test_without_any_modality_it_is_the_prior() -> None:
    for tensor in product()(torch.randn(2, 3, *SIZE), torch.zeros(2, 3, dtype=torch.bool)):
        assert torch.equal(tensor, torch.zeros(2, 5))


def test_a_modality_more_is_never_less_certain() -> None:
    encoder, inputs = product(), torch.randn(4, 3, *SIZE)
    fewer = encoder(inputs, torch.tensor([[True, False, True]]).expand(4, 3))[1]
    assert (encoder(inputs)[1] < fewer).all()
    assert (fewer < 0.0).all()


def test_shared_weights_cannot_tell_modalities_apart() -> None:
    encoder, inputs = product(shared_weights=True), torch.randn(2, 3, *SIZE)
    for ours, reference in zip(encoder(inputs.flip(1)), encoder(inputs), strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-5)
    separate = product()
    assert not torch.allclose(separate(inputs.flip(1))[0], separate(inputs)[0], rtol=1e-2)
    assert num_parameters(separate) == 3 * num_parameters(encoder)


def num_parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def gradient_of(encoder: ProductOfExperts, inputs: Tensor, available: Tensor) -> Tensor:
    inputs = inputs.clone().requires_grad_()
    mean, logvar = encoder(inputs, available)
    (gradient,) = torch.autograd.grad(mean.sum() + logvar.sum(), inputs)
    return gradient


def test_a_missing_modality_gets_no_gradient() -> None:
    gradient = gradient_of(product(), torch.randn(1, 3, *SIZE), torch.tensor([[True, False, True]]))
    assert [bool(gradient[0, modality].any()) for modality in range(3)] == [True, False, True]


def test_it_is_hierarchical_where_its_experts_are() -> None:
    assert not product().hierarchical
    assert product(expert={"name": "branched", "base_filters": 8, "hierarchical": True}).hierarchical


def test_expert_is_checked_where_it_stands() -> None:
    with pytest.raises(UserError, match=r"encoder\.expert\.base_filter: no such key of 'resnet'"):
        product(expert={"name": "resnet", "base_filter": 8})
