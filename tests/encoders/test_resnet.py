import pytest
import torch
from torch import nn

from menvae.encoders.resnet import ResNetEncoder
from menvae.errors import UserError
from menvae.latent import LatentLayout


def layout(z_dim: int) -> LatentLayout:
    return LatentLayout({"all": z_dim})


def test_number_of_parameters_by_hand() -> None:
    encoder = ResNetEncoder(4, (160, 160, 160), layout(128), base_filters=32, pool="average", block_means=None)
    widths, expected, width_in = (32, 64, 128, 256), 4 * 32 * 27 + 64, 32
    for width in widths:
        expected += width_in * width * 27 + 3 * width * width * 27 + 4 * 2 * width  # four convolutions, four norms
        expected += width_in * width + 2 * width if width != width_in else 0  # the skip
        width_in = width
    expected += 2 * (256 * 128 + 128)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == expected
    assert round(expected / 1e6, 2) == 8.36


def test_grids_halve_after_the_stem_and_three_layers() -> None:
    encoder = ResNetEncoder(2, (32, 48, 16), layout(5), base_filters=8)
    grid = encoder.trunk.stem(torch.zeros(1, 2, 32, 48, 16))
    assert grid.shape == (1, 8, 16, 24, 8)
    assert encoder.trunk.layers(grid).shape == (1, 64, 2, 3, 1)


def test_flatten_keeps_positions_and_average_does_not() -> None:
    inputs = torch.zeros(1, 1, 32, 32, 32)
    inputs[..., 8:12, 8:12, 8:12] = 1.0
    for pool, matters in (("flatten", True), ("average", False)):
        torch.manual_seed(0)
        encoder = ResNetEncoder(1, (32, 32, 32), layout(4), base_filters=8, pool=pool)  # type: ignore[arg-type]
        features = encoder.trunk.layers(encoder.trunk.stem(inputs))
        moved = encoder.head.mean(encoder.pool(features.flip(2, 3, 4)))
        stayed = encoder.head.mean(encoder.pool(features))
        assert torch.allclose(moved, stayed, atol=1e-6) is not matters


def test_block_means_reach_the_mean_by_a_linear_path_of_their_own() -> None:
    encoder = ResNetEncoder(2, (32, 16, 48), layout(5), base_filters=8, block_means=4)
    nn.init.zeros_(encoder.head.mean.weight)
    inputs = torch.randn(3, 2, 32, 16, 48)
    blocks = inputs.reshape(3, 2, 4, 8, 4, 4, 4, 12).mean(dim=(3, 5, 7)).flatten(1)
    weight = next(p for name, p in encoder.named_parameters() if "block_means" in name)
    assert torch.allclose(encoder(inputs)[0], blocks @ weight.T + encoder.head.mean.bias, atol=1e-5)
    plain = ResNetEncoder(2, (32, 16, 48), layout(5), base_filters=8, block_means=None)
    assert weight.numel() == sum(p.numel() for p in encoder.parameters()) - sum(p.numel() for p in plain.parameters())


def test_every_subject_starts_with_the_same_variance() -> None:
    logvar = ResNetEncoder(1, (16, 16, 16), layout(4), initial_logvar=-2.5)(torch.randn(3, 1, 16, 16, 16))[1]
    assert torch.equal(logvar, torch.full((3, 4), -2.5))
    logvar = ResNetEncoder(1, (16, 16, 16), layout(4), initial_logvar=None)(torch.randn(3, 1, 16, 16, 16))[1]
    assert logvar.std() > 0.01


def test_a_small_residual_gain_makes_each_block_its_skip() -> None:
    block = ResNetEncoder(1, (16, 16, 16), layout(4), residual_gain=1e-6).trunk.layers[1]
    inputs = torch.randn(2, 16, 8, 8, 8)
    assert torch.allclose(block(inputs), inputs.relu(), atol=1e-4)


def test_spectral_norm_is_on_every_convolution_and_on_no_linear_layer() -> None:
    encoder = ResNetEncoder(2, (16, 16, 16), layout(5), base_filters=8, spectral_norm=True)
    for module in encoder.modules():
        if isinstance(module, nn.Conv3d | nn.Linear):
            assert nn.utils.parametrize.is_parametrized(module) == isinstance(module, nn.Conv3d)


def test_normalises_by_groups_of_8_only() -> None:
    norms = [m for m in ResNetEncoder(2, (16, 16, 16), layout(5)).modules() if "Norm" in type(m).__name__]
    assert norms
    assert all(isinstance(module, nn.GroupNorm) and module.num_groups == 8 for module in norms)


@pytest.mark.parametrize("size", [(24, 16, 16), (16, 8, 16), (16, 16, 100)])
def test_sides_that_cannot_be_halved_four_times_are_refused(size: tuple[int, int, int]) -> None:
    with pytest.raises(UserError, match="every side must be a multiple of 16"):
        ResNetEncoder(1, size, layout(4))
