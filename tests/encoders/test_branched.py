from typing import Any

import pytest
import torch
from torch import Tensor

from menvae.encoders.branched import BranchedEncoder, ChannelAttention, SpatialAttention
from menvae.encoders.resnet import ResNetEncoder
from menvae.errors import UserError
from menvae.latent import LatentLayout

LAYOUT = LatentLayout({"vol": 2, "loc": 1, "residual": 3})
SIZE = (16, 16, 16)


def branched(**settings: Any) -> BranchedEncoder:
    return BranchedEncoder(1, SIZE, LAYOUT, **{"base_filters": 8, **settings})


def inputs(rows: int = 2) -> Tensor:
    return torch.randn(rows, 1, *SIZE)


def num_parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_without_options_it_is_the_resnet_encoder() -> None:
    resnet, ours = ResNetEncoder(1, SIZE, LAYOUT, base_filters=8), branched()
    with torch.no_grad():
        resnet.head.logvar.weight.normal_()
    state = {name: tensor for name, tensor in resnet.state_dict().items() if name.startswith("trunk.")}
    for partition in LAYOUT:
        rows = slice(*LAYOUT.bounds(partition))
        for name, tensor in resnet.head.state_dict().items():
            state[f"branches.{partition}.head.{name}"] = tensor[rows]
    ours.load_state_dict(state)
    batch = inputs()
    for mine, reference in zip(ours(batch), resnet(batch), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-5, atol=1e-6)


def test_channel_attention_by_hand() -> None:
    attention, x = ChannelAttention(32), torch.randn(2, 32, 2, 3, 1)
    down, up = attention.factors[2], attention.factors[4]
    assert (down.weight.shape, up.weight.shape) == ((2, 32), (32, 2))
    hidden = (x.mean(dim=(2, 3, 4)) @ down.weight.T + down.bias).clamp(min=0.0)
    factors = 1.0 / (1.0 + torch.exp(-(hidden @ up.weight.T + up.bias)))
    torch.testing.assert_close(attention(x), x * factors[:, :, None, None, None])


def test_spatial_attention_is_one_factor_a_voxel() -> None:
    attention, x = SpatialAttention(spectral=False), torch.randn(2, 16, 3, 3, 3)
    factors = attention(x) / x
    torch.testing.assert_close(factors, factors[:, :1].expand_as(factors), rtol=1e-4, atol=1e-4)
    assert ((factors > 0.0) & (factors < 1.0)).all()
    assert factors[:, 0].flatten(1).std(dim=1).min() > 1e-3
    torch.testing.assert_close(attention(x.flip(1)), attention(x).flip(1))  # channels have no order


def test_sizes_of_run6_by_hand() -> None:
    layout = LatentLayout({"vol": 24, "loc": 8, "shape": 12, "residual": 84})
    run6: dict[str, Any] = {"base_filters": 32, "pool": "average", "block_means": None}
    plain = BranchedEncoder(4, (160, 160, 160), layout, **run6)
    assert num_parameters(plain) == 8_356_160
    attentive = BranchedEncoder(4, (160, 160, 160), layout, attention="channel", **run6)
    assert num_parameters(attentive) - num_parameters(plain) == 4 * (2 * 256 * 16 + 16 + 256)
    spatial = BranchedEncoder(4, (160, 160, 160), layout, attention="spatial", **run6)
    assert num_parameters(spatial) - num_parameters(plain) == 4 * (2 * 27 + 1)
    fused = BranchedEncoder(4, (160, 160, 160), layout, multi_scale=["shape"], **run6)
    assert num_parameters(fused) - num_parameters(plain) == 128 * 64 + 64 + 2 * 12 * 64
    chain = BranchedEncoder(4, (160, 160, 160), layout, hierarchical=True, **run6)
    assert num_parameters(chain) - num_parameters(plain) == 2 * (8 * 24 + 12 * 32 + 84 * 44)


def test_chosen_partitions_alone_see_layer_3() -> None:
    encoder = branched(multi_scale=["loc"])
    features = dict(encoder.features(inputs()))
    features["layer3"] = features["layer3"].detach().requires_grad_()
    features["layer4"] = features["layer4"].detach()
    mean, _ = encoder.posterior(features)
    (gradient,) = torch.autograd.grad(mean[:, 2].sum(), features["layer3"], retain_graph=True)
    assert gradient.any()
    others = torch.autograd.grad(mean[:, [0, 1, 3, 4, 5]].sum(), features["layer3"], allow_unused=True)
    assert others == (None,) or not others[0].any()


@pytest.mark.parametrize("order", [None, ["residual", "vol", "loc"]])
def test_partitions_are_conditioned_on_those_before_them(order: list[str] | None) -> None:
    encoder = branched(hierarchical=True, order=order)
    mean, logvar = encoder(inputs())
    names = order or list(LAYOUT)
    for index, name in enumerate(names):
        own = torch.cat([LAYOUT.select(mean, name), LAYOUT.select(logvar, name)], dim=1).square().sum()
        reached = {
            other
            for other in LAYOUT
            if any(
                gradient is not None and gradient.any()
                for gradient in torch.autograd.grad(
                    own, list(encoder.branches[other].head.mean.parameters()), retain_graph=True, allow_unused=True
                )
            )
        }
        assert reached == set(names[: index + 1]), name


def test_conditions_are_the_means() -> None:
    encoder = branched(hierarchical=True, block_means=None, pool="average")
    features = encoder.features(inputs())
    pooled = features["layer4"].mean(dim=(2, 3, 4))
    head = encoder.branches["loc"].head.mean
    mean, _ = encoder.posterior(features)
    expected = pooled @ head.weight[:, :64].T + mean[:, :2] @ head.weight[:, 64:].T + head.bias
    torch.testing.assert_close(mean[:, 2:3], expected)


def test_z_keeps_the_order_of_the_layout() -> None:
    encoder = branched(hierarchical=True, order=["residual", "loc", "vol"])
    with torch.no_grad():
        for number, branch in enumerate(encoder.branches.values()):
            branch.head.logvar.bias.fill_(float(number))  # the weights start at 0
    assert encoder(inputs(1))[1].tolist() == [[2.0, 2.0, 1.0, 0.0, 0.0, 0.0]]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"multi_scale": ["shpe"]},
            r"encoder\.multi_scale: partition 'shpe' does not exist; known: loc, residual, vol",
        ),
        (
            {"multi_scale": ["loc", "loc"]},
            r"encoder\.multi_scale: partitions \['loc', 'loc'\] are not allowed; choose d",
        ),
        ({"order": ["vol", "loc", "residual"]}, r"encoder\.order: .* without encoder\.hierarchical=true"),
        ({"hierarchical": True, "order": ["vol", "lox"]}, r"encoder\.order: partition 'lox' does not exist"),
        ({"hierarchical": True, "order": ["vol", "loc"]}, r"encoder\.order: \['vol', 'loc'\] is not allowed; it must"),
        ({"hierarchical": True, "order": ["vol", "loc", "vol"]}, r"encoder\.order: .* it must contain each of"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        branched(**settings)
