import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from menvae.encoders.trunk import BasicBlock
from menvae.errors import UserError
from menvae.layers import (
    Conv3d,
    NearestConv3d,
    Recomputable,
    UpBlock,
    Upsampling,
    coarse_grid,
    conv,
    norm,
    recompute_activations,
    up_blocks,
)

SHALLOW = [(2, 2, 2), (2, 4, 4), (2, 2, 3), (2, 8, 8), (2, 1, 4)]
OTHER = [(1, 1, 1), (1, 2, 2), (3, 3, 3), (4, 4, 2), (4, 2, 4), (4, 4, 4)]


def poison_memory(num_weights: int) -> None:
    """Fill memory that the next tensors of this size will get with NaN."""
    poisoned = [torch.full((num_weights,), float("nan"), dtype=dtype) for dtype in (torch.float32, torch.bfloat16) * 4]
    del poisoned


def worst_weight_gradient(layer: nn.Module, grid: tuple[int, int, int], channels: int, tries: int = 4) -> float:
    """Largest relative error of the bfloat16 weight gradient against float32 on poisoned memory; NaN counts as inf."""
    weight = next(layer.parameters())
    inputs = torch.randn(2, channels, *grid)
    output = layer(inputs)
    upstream = torch.randn_like(output)
    output.backward(upstream)
    assert weight.grad is not None
    reference, worst = weight.grad.clone(), 0.0
    for _ in range(tries):
        weight.grad = None
        poison_memory(weight.numel())
        with torch.autocast("cpu", torch.bfloat16):
            output = layer(inputs)
        output.backward(upstream.to(output.dtype))
        error = ((weight.grad - reference).norm() / reference.norm()).item()
        worst = max(worst, error if torch.isfinite(weight.grad).all() else float("inf"))
    return worst


@pytest.mark.parametrize("grid", SHALLOW + OTHER, ids=str)
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_bfloat16_weight_gradient_is_right_on_small_grids(grid: tuple[int, int, int], kernel: int) -> None:
    assert worst_weight_gradient(conv(32, 32, kernel, bias=False), grid, 32) < 0.02


@pytest.mark.parametrize("grid", [(2, 2, 2), (4, 4, 4), (4, 8, 4)], ids=str)
def test_bfloat16_weight_gradient_is_right_at_stride_2_and_transposed(grid: tuple[int, int, int]) -> None:
    assert worst_weight_gradient(conv(16, 32, 3, stride=2, bias=False), grid, 16) < 0.02
    assert worst_weight_gradient(conv(16, 32, 1, stride=2, bias=False), grid, 16) < 0.02
    assert worst_weight_gradient(NearestConv3d(32, 16, 3, bias=False), grid, 32) < 0.02
    assert worst_weight_gradient(nn.ConvTranspose3d(32, 16, 4, stride=2, padding=1, bias=False), grid, 32) < 0.02


@pytest.mark.xfail(reason="torch 2.13 leaves part of this gradient unwritten on CPU: why Conv3d exists", strict=False)
def test_plain_convolution_is_right_too() -> None:
    layer = nn.Conv3d(64, 64, 3, padding=1, bias=False)
    assert max(worst_weight_gradient(layer, grid, 64) for grid in SHALLOW) < 0.02


def test_bfloat16_is_left_only_where_it_must_be() -> None:
    layer = Conv3d(8, 8, 3, padding=1)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(1, 8, 2, 4, 4)).dtype == torch.float32
        assert layer(torch.randn(1, 8, 4, 2, 2)).dtype == torch.bfloat16


def test_convolution_is_torchs_own_in_float32() -> None:
    ours, inputs = conv(3, 4, 3, stride=2), torch.randn(2, 3, 4, 6, 8)
    assert isinstance(ours, nn.Conv3d)
    expected = torch.nn.functional.conv3d(inputs, ours.weight, ours.bias, stride=2, padding=1)
    assert torch.equal(ours(inputs), expected)
    assert expected.shape == (2, 4, 2, 3, 4)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d], ids=str)
def test_single_volume_is_convolved_as_in_a_batch(memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    layer, plain = Conv3d(6, 4, 3, padding=1), nn.Conv3d(6, 4, 3, padding=1)
    plain.load_state_dict(layer.state_dict())
    volume = torch.randn(1, 6, 4, 6, 8).to(memory_format=memory_format).requires_grad_()
    weights = torch.randn(1, 4, 4, 6, 8)
    with torch.profiler.profile() as seen:
        ours = layer(volume)
    (gradient,) = torch.autograd.grad((ours * weights).sum(), volume)
    other = volume.detach().requires_grad_()
    expected = plain(other.expand(2, -1, -1, -1, -1))[:1]
    (expected_gradient,) = torch.autograd.grad((expected * weights).sum(), other)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(gradient, expected_gradient)
    names = {event.key for event in seen.key_averages()}
    assert "aten::mkldnn_convolution" in names
    assert not any("slow_conv" in name for name in names)


def test_spectral_norm_bounds_the_largest_singular_value() -> None:
    layer = conv(8, 16, 3, spectral=True)
    for _ in range(50):
        layer(torch.randn(1, 8, 4, 4, 4))
    assert torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2).item() == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("upsampling", ["resize_conv", "nearest", "transposed"])
@pytest.mark.parametrize("spectral", [False, True])
def test_up_block_doubles_the_grid(upsampling: str, spectral: bool) -> None:
    block = UpBlock(16, 8, upsampling=upsampling, spectral=spectral)  # type: ignore[arg-type]
    output = block(torch.randn(2, 16, 1, 2, 3))
    assert output.shape == (2, 8, 2, 4, 6)
    assert (output >= 0.0).all()


def test_up_blocks_go_from_width_to_width() -> None:
    blocks = up_blocks([32, 16, 8], upsampling="transposed", spectral=False)
    assert blocks(torch.randn(1, 32, 1, 1, 1)).shape == (1, 8, 4, 4, 4)


def test_norm_has_8_groups_and_refuses_other_widths() -> None:
    assert norm(24).num_groups == 8
    with pytest.raises(UserError, match="12 channels"):
        norm(12)


@pytest.mark.parametrize("size", [(24, 16, 16), (16, 8, 16), (16, 16, 0), (-16, 16, 16)])
def test_coarse_grid_refuses_sides_that_are_no_multiple_of_16(size: tuple[int, int, int]) -> None:
    with pytest.raises(UserError, match="multiple of 16"):
        coarse_grid(size, "encoder=resnet")


def recomputed_twin(build: Callable[[], nn.Module]) -> tuple[nn.Module, nn.Module]:
    """Return a module that keeps its activations and an equal one that computes them again."""
    twins = []
    for recompute in (False, True):
        torch.manual_seed(0)
        twins.append(build())
        if recompute:
            recompute_activations(twins[-1])
    return twins[0], twins[1]


@pytest.mark.parametrize("spectral", [False, True])
@pytest.mark.parametrize("upsampling", ["transposed", "nearest", "resize_conv"])
def test_recomputed_activations_change_nothing(upsampling: Upsampling, spectral: bool) -> None:
    def build() -> nn.Module:
        widths = (16, 16, 8)
        return nn.Sequential(
            BasicBlock(4, 16, 2, gain=1.0, spectral=spectral),
            nn.Dropout(0.5),
            up_blocks(widths, upsampling=upsampling, spectral=spectral),
        )

    inputs, results = torch.randn(2, 4, 4, 4, 4), []
    for module in recomputed_twin(build):
        optimizer = torch.optim.AdamW(module.parameters())
        for _ in range(3):
            torch.manual_seed(1)
            leaf = inputs.clone().requires_grad_()
            first = module(leaf)
            second = module(2.0 * leaf)  # two passes before a backward: each has its own spectral norm
            optimizer.zero_grad()
            (first * second).square().mean().backward()
            optimizer.step()
        gradients = {f"grad.{name}": parameter.grad for name, parameter in module.named_parameters()}
        results.append({"first": first, "leaf": leaf.grad, **module.state_dict(), **gradients})
    kept, again = results
    assert kept.keys() == again.keys()
    for name, value in kept.items():
        assert value is not None
        assert torch.equal(value, again[name]), name


def test_recomputed_activations_are_not_kept() -> None:
    def num_values_kept(module: nn.Module) -> int:
        kept: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            output = module(torch.randn(1, 16, 8, 8, 8))
        assert output.requires_grad
        return sum(kept.values())

    keeping, again = recomputed_twin(lambda: up_blocks([16, 16, 16], upsampling="resize_conv", spectral=False))
    assert num_values_kept(again) < 0.2 * num_values_kept(keeping)


class NoisyBlock(Recomputable):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(nn.functional.dropout(self.linear(x)))  # type: ignore[no-any-return]


def test_recomputing_draws_the_same_random_numbers_and_counts_a_batch_once() -> None:
    results = []
    for block in recomputed_twin(NoisyBlock):
        torch.manual_seed(0)
        output = block(torch.randn(8, 4))
        output.square().sum().backward(retain_graph=True)
        output.square().sum().backward()
        results.append([output, torch.rand(1), *block.state_dict().values(), *(p.grad for p in block.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_model_without_blocks_cannot_recompute() -> None:
    with pytest.raises(UserError, match=r"trainer\.activation_checkpointing: true is not allowed"):
        recompute_activations(nn.Linear(2, 2))


@pytest.mark.parametrize("grid", [(1, 1, 1), (1, 2, 3), (4, 3, 5)], ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_folded_nearest_up_sampling_is_the_two_steps_at_borders_too(grid: tuple[int, int, int], bias: bool) -> None:
    folded = NearestConv3d(5, 4, 3, bias=bias).double()
    inputs = torch.randn(2, 5, *grid, dtype=torch.float64, requires_grad=True)
    large = torch.nn.functional.interpolate(inputs, scale_factor=2, mode="nearest")
    expected = torch.nn.functional.conv3d(large, folded.weight, folded.bias, padding=1)
    found = folded(inputs)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    upstream = torch.randn_like(expected)
    leaves = [inputs, *folded.parameters()]
    for ours, reference in zip(
        torch.autograd.grad(found, leaves, upstream), torch.autograd.grad(expected, leaves, upstream), strict=True
    ):
        torch.testing.assert_close(ours, reference, rtol=1e-12, atol=1e-12)


def test_recomputing_with_buffers_cannot_be_compiled() -> None:
    recompute_activations(up_blocks([16, 8], upsampling="nearest", spectral=False), compiled=True)
    with pytest.raises(UserError, match=r"not allowed with trainer\.compile=true where blocks have a spectral norm"):
        recompute_activations(up_blocks([16, 8], upsampling="nearest", spectral=True), compiled=True)


@pytest.mark.parametrize("grid", [(4, 4, 4), (16, 16, 16)], ids=str)  # torch has a kernel for small and one for large
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d], ids=str)
def test_group_norm_keeps_a_small_variance_beside_a_large_mean(
    grid: tuple[int, int, int], memory_format: torch.memory_format
) -> None:
    """Mean 100, standard deviation 0.1: values and gradients against float64, which loses nothing."""
    torch.manual_seed(0)
    layer = norm(16)
    with torch.no_grad():
        layer.weight.uniform_(0.5, 2.0)
        layer.bias.normal_()
    exact = copy.deepcopy(layer).double()
    inputs = (100.0 + 0.1 * torch.randn(2, 16, *grid)).contiguous(memory_format=memory_format)
    upstream = torch.randn_like(inputs)
    values = []
    for module, dtype in ((layer, torch.float32), (exact, torch.float64)):
        given = inputs.detach().to(dtype).requires_grad_()
        output = module(given)
        output.backward(upstream.to(dtype))
        values.append([output.detach(), given.grad, module.weight.grad, module.bias.grad])
    for found, wanted in zip(*values, strict=True):
        assert (found - wanted).abs().max() < 2e-3 * wanted.abs().max()  # float32 resolves 100 to 8e-6, 1e-4 of 0.1
    assert layer(inputs).is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize(("mean", "deviation"), [(100.0, 0.01), (3.0, 1.0), (5.0, 1.0), (2.0, 0.0)])
def test_group_norm_of_one_group_that_is_far_from_zero(mean: float, deviation: float) -> None:
    """Only one of 16 groups is far from 0; a group without variance becomes the bias."""
    torch.manual_seed(0)
    layer = norm(16)
    inputs = torch.randn(2, 16, 8, 8, 8).contiguous(memory_format=torch.channels_last_3d)
    inputs[1, 4:6] = mean + deviation * inputs[1, 4:6]
    found, exact = layer(inputs), copy.deepcopy(layer).double()(inputs.double())
    assert (found - exact).abs().max() < 2e-3 * exact.abs().max()


@pytest.mark.parametrize(
    ("mean", "deviation", "own_dtype"),
    [
        *((0.0, 1.0, torch.float32), (3.0, 1.0, torch.float32), (1.0, 0.1, torch.float32)),  # as under autocast
        (0.0, 1.0, torch.bfloat16),  # torch keeps the moments in the dtype of the weights
    ],
)
def test_gradients_of_group_norm_in_bfloat16(mean: float, deviation: float, own_dtype: torch.dtype) -> None:
    """Against float64 on the same numbers: only what is returned in bfloat16 is rounded to its 8 bits."""
    torch.manual_seed(0)
    layer = norm(16).to(own_dtype)
    exact = copy.deepcopy(layer).double()
    inputs = (mean + deviation * torch.randn(2, 16, 8, 6, 10)).bfloat16()
    inputs = inputs.contiguous(memory_format=torch.channels_last_3d)
    upstream = torch.randn_like(inputs)
    gradients = []
    for module, dtype in ((layer, torch.bfloat16), (exact, torch.float64)):
        given = inputs.detach().to(dtype).requires_grad_()
        module(given).backward(upstream.to(dtype))
        gradients.append([given.grad, module.weight.grad, module.bias.grad])
    assert gradients[0][0].is_contiguous(memory_format=torch.channels_last_3d)
    tolerances = [2.0**-7, *2 * [2.0**-7 if own_dtype == torch.bfloat16 else 1e-4]]
    for found, wanted, tolerance in zip(*gradients, tolerances, strict=True):
        assert (found - wanted).abs().max() < tolerance * wanted.abs().max()


def test_group_norm_is_torchs_own_in_everything_else() -> None:
    layer = norm(8)
    plain = nn.GroupNorm(8, 8)
    assert layer.state_dict().keys() == plain.state_dict().keys()
    inputs = torch.randn(2, 8, 4, 4, 4)
    assert torch.equal(layer(inputs), plain(inputs))
    half = inputs.bfloat16().contiguous(memory_format=torch.channels_last_3d)
    assert torch.equal(layer.bfloat16()(half), plain.bfloat16()(half))
