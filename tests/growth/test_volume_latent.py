"""Latents of the volume's partition that say a forecast volume."""

import numpy as np
import pytest
import torch

from menvae.growth.volume_latent import volume_latent
from menvae.heads.identity import IdentityHead
from menvae.heads.linear import LinearHead
from menvae.heads.mlp import MLPHead

KINDS = ("identity", "inverse", "minimum_norm")


def latents(num: int = 5) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=num))


def log_volume(head: torch.nn.Module):
    """Latents [P] -> ln mm^3 of a volume whose ln(V + 1) has mean 9 and sd 1.2."""
    head.double().eval()
    return lambda z: torch.expm1(head(z.unsqueeze(0))[0, 0] * 1.2 + 9.0).log()


def linear() -> LinearHead:
    torch.manual_seed(0)
    return LinearHead(5, 2)


def perceptron() -> MLPHead:
    torch.manual_seed(0)
    head = MLPHead(5, 2)
    torch.nn.init.normal_(head.layers[0].bias)  # those of a head that has learnt; without, the head is flat at 0
    return head


@pytest.mark.parametrize(
    ("head", "kind"), [(linear, kind) for kind in KINDS] + [(perceptron, kind) for kind in KINDS[1:]]
)
def test_the_head_says_the_volume(head, kind):
    read = log_volume(head())
    for target in (8.0, 9.5):
        found, error = volume_latent(latents(), torch.tensor(target, dtype=torch.float64), read, kind)
        assert error < 1e-6
        assert float(read(found).detach()) == pytest.approx(target, abs=1e-6)


def test_an_identity_head_moves_its_first_coordinate_alone():
    read = log_volume(IdentityHead(5, 5))
    found, _ = volume_latent(latents(), torch.tensor(9.6, dtype=torch.float64), read, "identity")
    assert float(found[0]) == pytest.approx((np.log1p(np.exp(9.6)) - 9.0) / 1.2, abs=1e-7)
    torch.testing.assert_close(found[1:], latents()[1:], rtol=0.0, atol=0.0)


def test_an_inverse_head_is_the_pseudo_inverse_of_a_linear_one():
    head = linear().double()
    target = torch.tensor([0.7, -0.4], dtype=torch.float64)
    found, error = volume_latent(latents(), target, lambda z: head(z.unsqueeze(0))[0], "inverse")
    expected = np.linalg.lstsq(head.layer.weight.detach().numpy(), target.numpy(), rcond=None)[0]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert error < 1e-12


def test_the_smallest_change_of_a_linear_head_lies_along_its_weights():
    head, z = linear().double(), latents()
    found, _ = volume_latent(
        z, torch.tensor(0.7, dtype=torch.float64), lambda at: head(at.unsqueeze(0))[0, 0], "minimum_norm"
    )
    weights = head.layer.weight.detach()[0]
    expected = z + weights * (0.7 - weights @ z) / weights.square().sum()
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-12)


def test_latents_that_say_it_already_stay():
    read = log_volume(perceptron())
    found, error = volume_latent(latents(), read(latents()).detach(), read, "minimum_norm")
    torch.testing.assert_close(found, latents(), rtol=0.0, atol=0.0)
    assert error == 0.0


def test_a_volume_that_the_head_cannot_say_is_reported():
    found, error = volume_latent(latents(), torch.tensor(2.0), lambda z: torch.tanh(z[0]), "minimum_norm")
    assert error >= 1.0
    assert torch.isfinite(found).all()


def test_single_precision_is_enough():
    read = log_volume(linear())
    z = latents().float()
    found, error = volume_latent(z, torch.tensor(9.3), lambda at: read(at.double()).float(), "minimum_norm")
    assert found.dtype == torch.float32
    assert error < 1e-5
