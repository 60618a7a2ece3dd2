from itertools import pairwise

import pytest
import torch

from menvae.decoders.auxiliary import AuxiliaryDecoder, auxiliary_side
from menvae.decoders.sbd import SpatialBroadcastDecoder, coordinate_grid
from menvae.decoders.transposed import TransposedDecoder
from menvae.errors import UserError


def test_coordinates_are_in_the_order_depth_height_width() -> None:
    grid = coordinate_grid((3, 2, 5))
    assert grid.shape == (1, 3, 3, 2, 5)
    assert grid[0, :, 0, 0, 0].tolist() == [-1.0, -1.0, -1.0]
    assert grid[0, :, 2, 1, 4].tolist() == [1.0, 1.0, 1.0]
    assert grid[0, :, 1, 0, 3].tolist() == [0.0, -1.0, 0.5]


def test_sbd_parameters_by_hand() -> None:
    decoder = SpatialBroadcastDecoder(
        128, 4, (160, 160, 160), base_filters=32, mixing_layers=1, final_norm=True, upsampling="resize_conv"
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
            6, 2, (16, 16, 32), latent_gain=gain, mixing_layers=mixing_layers, spectral_norm=spectral_norm
        ).eval()
        mixed = [decoder.mixing[0](torch.cat([z, torch.ones(1, 3, 1, 1, 1)], 1)) for z in torch.randn(2, 1, 6, 1, 1, 1)]
        changes[gain] = (mixed[0] - mixed[1]).norm() / mixed[0].norm()
    assert changes[1.0] > 0.3
    assert changes[1e-3] < 0.01


def test_final_norm_is_the_one_of_the_last_up_block() -> None:
    with_norm, without = (SpatialBroadcastDecoder(6, 2, (16, 16, 16), final_norm=norm) for norm in (True, False))
    assert [type(m).__name__ for m in with_norm.up[-1].layers] == ["ConvTranspose3d", "GroupNorm", "ReLU"]
    assert [type(m).__name__ for m in without.up[-1].layers] == ["ConvTranspose3d", "ReLU"]
    assert all(type(block.layers[1]).__name__ == "GroupNorm" for block in without.up[:-1])


def test_auxiliary_parameters_by_hand() -> None:
    decoder = AuxiliaryDecoder(84, 4, (160, 160, 160), base_filters=32, upsampling="resize_conv")
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
    assert AuxiliaryDecoder(3, 1, size).output_size == (side, side, side)


def test_coordinates_are_no_part_of_checkpoints() -> None:
    assert "coordinates" not in SpatialBroadcastDecoder(3, 1, (16, 16, 16)).state_dict()


@torch.no_grad()
def test_every_voxel_of_the_coarse_grid_gets_z_and_its_own_coordinates() -> None:
    decoder = SpatialBroadcastDecoder(3, 1, (32, 16, 48))
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
        decoder(3, 1, (16, 40, 16))


def test_output_is_linear_and_reaches_any_z_score() -> None:
    for decoder in (SpatialBroadcastDecoder(3, 1, (16, 16, 16)), TransposedDecoder(3, 1, (16, 16, 16))):
        with torch.no_grad():
            decoder.output.bias.fill_(12.0)
            assert decoder(torch.zeros(1, 3)).max() > 10.0
