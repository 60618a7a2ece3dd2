"""The projection with input noise against ridge regression."""

from __future__ import annotations

import pytest
import torch

from menvae.encoders import Encoder
from menvae.errors import UserError
from menvae.latent import LatentLayout
from menvae.registry import build


def projection(num_columns: int, **settings: object) -> Encoder:
    torch.manual_seed(0)
    encoder: Encoder = build(
        "encoder", {"name": "projection", **settings}, num_columns, (), LatentLayout({"vol": 1, "residual": 1})
    )
    return encoder


def test_noise_is_a_ridge_penalty_of_rows_times_its_variance() -> None:
    noise, generator = 0.5, torch.Generator().manual_seed(0)
    inputs = torch.randn(8, 3, generator=generator)
    encoder = projection(3, input_noise=noise).train()
    with torch.no_grad():
        drawn = torch.stack([encoder(inputs)[0] for _ in range(20_000)])
        exact = encoder.eval()(inputs)[0]
    targets = torch.randn(8, 2, generator=generator)
    expected = (exact - targets).square().sum(0) + len(inputs) * noise**2 * encoder.mean.weight.square().sum(1)  # type: ignore[union-attr, operator]
    torch.testing.assert_close((drawn - targets).square().sum(1).mean(0), expected, rtol=0.02, atol=0.0)


def test_evaluation_has_no_noise_and_a_constant_variance() -> None:
    encoder = projection(3, logvar=-2.0).eval()
    inputs = torch.ones(4, 3)
    mean, logvar = encoder(inputs)
    torch.testing.assert_close(mean, inputs @ encoder.mean.weight.T + encoder.mean.bias)  # type: ignore[union-attr, operator]
    assert (logvar == -2.0).all()


def test_volumes_are_refused() -> None:
    with pytest.raises(UserError, match="encoder=projection needs rows of a table"):
        build("encoder", {"name": "projection"}, 4, (32, 32, 32), LatentLayout({"residual": 2}))
