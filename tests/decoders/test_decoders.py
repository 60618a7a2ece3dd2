from itertools import pairwise

import pytest
import torch
from torch import nn

from menvae.decoders.auxiliary import AuxiliaryDecoder, auxiliary_side
from menvae.decoders.per_modality import PerModalityDecoder
from menvae.decoders.sbd import SpatialBroadcastDecoder, coordinate_grid
from menvae.decoders.transposed import TransposedDecoder
from menvae.encoders.resnet import ResNetEncoder
from menvae.errors import UserError
from menvae.latent import LatentLayout


def of_size(z_dim: int) -> LatentLayout:
    return LatentLayout({"all": z_dim})


def test_coordinates_are_in_the_order_depth_height_width() -> None:
    grid = coordinate_grid((3, 2, 5))
    assert grid.shape == (1, 3, 3, 2, 5)
    assert grid[0, :, 0, 0, 0].tolist() == [-1.0, -1.0, -1.0]
    assert grid[0, :, 2, 1, 4].tolist() == [1.0, 1.0, 1.0]
    assert grid[0, :, 1, 0, 3].tolist() == [0.0, -1.0, 0.5]


def test_sbd_parameters_by_hand() -> None:
    decoder = SpatialBroadcastDecoder(
        of_size(128), 4, (160, 160, 160), base_filters=32, mixing_layers=1, final_norm=True, upsampling="resize_conv"
    )
    widths = (256, 128, 64, 32, 16)
    expected = (128 + 3) * 256 + 2 * 256
    expected += sum(a * b * 27 + 2 * b for a, b in pairwise(widths)) + 16 * 4 * 27 + 4
    assert sum(parameter.numel() for parameter in decoder.parameters()) == expected
    assert round(expected / 1e6, 2) == 1.21


@pytest.mark.parametrize("spectral_norm", [False, True])
@pytest.mark.parametrize("mixing_layers", [1, 2])
def test_latent_gain_keeps_z_out_at_first_and_coordinates_in(spectral_norm: bool, mixing_layers: int) -> None:
    changes = {}
    for gain in (1.0, 1e-3):
        torch.manual_seed(0)
        decoder = SpatialBroadcastDecoder(
            of_size(6), 2, (16, 16, 32), latent_gain=gain, mixing_layers=mixing_layers, spectral_norm=spectral_norm
        ).eval()
        mixed = [decoder.mixing[0](torch.cat([z, torch.ones(1, 3, 1, 1, 1)], 1)) for z in torch.randn(2, 1, 6, 1, 1, 1)]
        changes[gain] = (mixed[0] - mixed[1]).norm() / mixed[0].norm()
    assert changes[1.0] > 0.3
    assert changes[1e-3] < 0.01


def test_final_norm_is_the_one_of_the_last_up_block() -> None:
    with_norm, without = (
        SpatialBroadcastDecoder(of_size(6), 2, (16, 16, 16), final_norm=norm) for norm in (True, False)
    )
    assert [type(m).__name__ for m in with_norm.up[-1].layers] == ["ConvTranspose3d", "GroupNorm", "ReLU"]
    assert [type(m).__name__ for m in without.up[-1].layers] == ["ConvTranspose3d", "ReLU"]
    assert all(type(block.layers[1]).__name__ == "GroupNorm" for block in without.up[:-1])


def test_auxiliary_parameters_by_hand() -> None:
    decoder = AuxiliaryDecoder(of_size(84), 4, (160, 160, 160), base_filters=32, upsampling="resize_conv")
    widths = (128, 64, 32, 16, 16)
    expected = (84 + 1) * 128 * 64
    expected += sum(a * b * 27 + 2 * b for a, b in pairwise(widths)) + 16 * 4 * 27 + 4
    assert sum(parameter.numel() for parameter in decoder.parameters()) == expected
    assert round(expected / 1e6, 2) == 1.0


@pytest.mark.parametrize(
    ("size", "side"),
    [
        ((160, 160, 160), 64),
        ((144, 192, 144), 64),  # 0.4 x 192 = 76.8
        ((128, 128, 128), 64),  # 51.2: log2 is 5.68, nearer to 6
        ((96, 96, 96), 32),  # 38.4
        ((64, 64, 64), 32),  # 25.6: log2 is 4.68
        ((32, 32, 32), 16),
        ((16, 16, 16), 16),
    ],
)
def test_auxiliary_side(size: tuple[int, int, int], side: int) -> None:
    assert auxiliary_side(size) == side
    assert AuxiliaryDecoder(of_size(3), 1, size).output_size == (side, side, side)


def test_coordinates_are_no_part_of_checkpoints() -> None:
    assert "coordinates" not in SpatialBroadcastDecoder(of_size(3), 1, (16, 16, 16)).state_dict()


@torch.no_grad()
def test_every_voxel_of_the_coarse_grid_gets_z_and_its_own_coordinates() -> None:
    decoder = SpatialBroadcastDecoder(of_size(3), 1, (32, 16, 48))
    seen: list[torch.Tensor] = []
    decoder.mixing.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    z = torch.randn(2, 3)
    decoder(z)
    assert seen[0].shape == (2, 6, 2, 1, 3)
    assert torch.equal(seen[0][:, :3], z[:, :, None, None, None].expand(2, 3, 2, 1, 3))
    assert torch.equal(seen[0][:, 3:], coordinate_grid((2, 1, 3)).expand(2, 3, 2, 1, 3))


@pytest.mark.parametrize("decoder", [SpatialBroadcastDecoder, TransposedDecoder])
def test_sides_that_cannot_be_doubled_four_times_are_refused(decoder: type) -> None:
    with pytest.raises(UserError, match="every side must be a multiple of 16"):
        decoder(of_size(3), 1, (16, 40, 16))


def test_output_is_linear_and_reaches_any_z_score() -> None:
    for decoder in (
        SpatialBroadcastDecoder(of_size(3), 1, (16, 16, 16)),
        TransposedDecoder(of_size(3), 1, (16, 16, 16)),
    ):
        with torch.no_grad():
            decoder.output.bias.fill_(12.0)
            assert decoder(torch.zeros(1, 3)).max() > 10.0


def test_every_modality_has_a_decoder_of_its_own() -> None:
    decoder = PerModalityDecoder(of_size(3), 2, (16, 32, 16), each={"name": "transposed"})
    z = torch.randn(2, 3)
    drawn = decoder(z)
    assert drawn.shape == (2, 2, 16, 32, 16)
    assert torch.equal(drawn[:, 1:], decoder.decoders[1](z))
    drawn[:, 1].square().sum().backward()
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in decoder.decoders[0].parameters())
    assert all(parameter.grad is not None for parameter in decoder.decoders[1].parameters())


def test_a_decoder_for_each_modality_is_refused_in_words() -> None:
    for each, words in (
        ({"name": "per_modality"}, r"decoder\.each\.name: 'per_modality' is not allowed"),
        ({"name": "sbd", "filters": 3}, r"decoder\.each\.filters: no such key of 'sbd'"),
    ):
        with pytest.raises(UserError, match=words):
            PerModalityDecoder(of_size(3), 2, (16, 16, 16), each=each)


def test_sbd_at_128_as_documented() -> None:
    """Exp2b: 131 -> 256 (1x1x1) -> 128 -> 64 -> 32 -> 16 -> 4 on 8^3, four transposed convolutions of stride 2."""
    with torch.device("meta"):
        decoder = SpatialBroadcastDecoder(
            of_size(128), 4, (128, 128, 128), base_filters=32, mixing_layers=1, final_norm=True
        )
    layers = [m for m in decoder.modules() if isinstance(m, nn.Conv3d | nn.ConvTranspose3d)]
    shapes = [(type(m).__name__, m.in_channels, m.out_channels, m.kernel_size[0], m.stride[0]) for m in layers]
    assert shapes == [
        ("Conv3d", 131, 256, 1, 1),
        ("ConvTranspose3d", 256, 128, 4, 2),
        ("ConvTranspose3d", 128, 64, 4, 2),
        ("ConvTranspose3d", 64, 32, 4, 2),
        ("ConvTranspose3d", 32, 16, 4, 2),
        ("Conv3d", 16, 4, 3, 1),
    ]
    seen: list[torch.Size] = []
    decoder.mixing.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    assert decoder(torch.empty(2, 128, device="meta")).shape == (2, 4, 128, 128, 128)
    assert seen == [(2, 131, 8, 8, 8)]


def test_each_coordinate_varies_along_its_own_axis_only() -> None:
    grid = SpatialBroadcastDecoder(of_size(3), 1, (128, 128, 128)).coordinates
    assert grid.shape == (1, 3, 8, 8, 8)
    assert grid.min() == -1.0
    assert grid.max() == 1.0
    for axis in range(3):
        steps = [grid[0, axis].diff(dim=other) for other in range(3)]
        assert (steps[axis] > 0.0).all()
        torch.testing.assert_close(steps[axis], torch.full_like(steps[axis], 2.0 / 7.0))
        assert not any(steps[other].any() for other in range(3) if other != axis)


def test_transposed_decoder_at_128_is_symmetric_to_the_encoder() -> None:
    with torch.device("meta"):
        encoder = ResNetEncoder(4, (128, 128, 128), LatentLayout({"all": 128}), base_filters=32, block_means=None)
        decoder = TransposedDecoder(of_size(128), 4, (128, 128, 128), base_filters=32)
    widths, sides = [], []
    grid = encoder.trunk.stem(torch.empty(2, 4, 128, 128, 128, device="meta"))
    for block in [None, *encoder.trunk.layers]:
        grid = grid if block is None else block(grid)
        if grid.shape[2] not in sides:
            widths.append(grid.shape[1])
            sides.append(grid.shape[2])
    assert (widths, sides) == ([32, 64, 128, 256], [64, 32, 16, 8])
    assert encoder(torch.empty(2, 4, 128, 128, 128, device="meta"))[0].shape == (2, 128)
    drawn = decoder.project(torch.empty(2, 128, device="meta")).unflatten(1, (-1, *decoder.grid))
    back = [drawn.shape[1:3]]
    for block in decoder.up:
        drawn = block(drawn)
        back.append(drawn.shape[1:3])
    assert back == [(256, 8), (128, 16), (64, 32), (32, 64), (16, 128)]
    assert decoder.output(drawn).shape == (2, 4, 128, 128, 128)
