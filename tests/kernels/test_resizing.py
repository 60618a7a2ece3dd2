"""Folded up-sampling against the operations that define it."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d, conv3d, interpolate, max_pool3d

from menvae.kernels.resizing import mean_of_boxes, smallest_of_boxes, trilinear, trilinear_conv3d
from menvae.layers import UpBlock

FORMATS = (torch.contiguous_format, torch.channels_last_3d)
DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
GRIDS = [(1, 1, 1), (1, 2, 3), (2, 5, 1), (4, 3, 7), (33, 40, 3)]


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("size", [(8, 6, 14), (4, 3, 7), (5, 9, 10), (2, 1, 3)])
def test_interpolation_is_that_of_torch(size: tuple[int, int, int], memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 3, 7).contiguous(memory_format=memory_format).requires_grad_()
    expected, found = interpolate(x, size=size, mode="trilinear", align_corners=False), trilinear(x, size)
    torch.testing.assert_close(found, expected)
    weight = torch.randn_like(expected)
    gradients = [torch.autograd.grad((each * weight).sum(), x)[0] for each in (found, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("side", [1, 2, 4])
def test_boxes_are_pooled_as_by_torch(side: int, memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 8, 12).contiguous(memory_format=memory_format).requires_grad_()
    torch.testing.assert_close(smallest_of_boxes(x, side), -max_pool3d(-x, side))
    expected, found = avg_pool3d(x, side), mean_of_boxes(x, side)
    torch.testing.assert_close(found, expected)
    weight = torch.randn_like(expected)
    gradients = [torch.autograd.grad((each * weight).sum(), x)[0] for each in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_boxes_that_do_not_fill_the_volume_are_refused() -> None:
    for side, length in ((3, 6), (2, 5)):
        with pytest.raises(AssertionError, match=r"a power of 2|boxes fill the volume"):
            mean_of_boxes(torch.zeros(1, 1, 4, 4, length), side)


def two_steps(x: Tensor, weight: Tensor) -> Tensor:
    large = interpolate(x, scale_factor=2, mode="trilinear", align_corners=False)
    return conv3d(large, weight, padding=1)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("device", DEVICES)
def test_folded_trilinear_up_sampling_is_the_two_steps_at_borders_too(
    grid: tuple[int, int, int], memory_format: torch.memory_format, batch: int, device: str
) -> None:
    torch.manual_seed(0)
    x = torch.randn(batch, 5, *grid, dtype=torch.float64, device=device)
    x = x.contiguous(memory_format=memory_format).requires_grad_()
    weight = torch.randn(4, 5, 3, 3, 3, dtype=torch.float64, device=device, requires_grad=True)
    expected, found = two_steps(x, weight), trilinear_conv3d(x, weight)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    upstream = torch.randn_like(expected)
    for ours, reference in zip(
        torch.autograd.grad(found, [x, weight], upstream),
        torch.autograd.grad(expected, [x, weight], upstream),
        strict=True,
    ):
        torch.testing.assert_close(ours, reference, rtol=1e-11, atol=1e-11)


def test_gradient_of_folded_trilinear_up_sampling_is_its_slope() -> None:
    x = torch.randn(1, 2, 2, 1, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 2, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(trilinear_conv3d, (x, weight))


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_folded_trilinear_up_sampling_is_as_accurate_as_the_two_steps(memory_format: torch.memory_format) -> None:
    """float32 and bfloat16 against float64, at a mean that is large beside the deviations."""
    torch.manual_seed(0)
    x = (10.0 + torch.randn(2, 16, 6, 5, 7)).contiguous(memory_format=memory_format)
    weight = torch.randn(8, 16, 3, 3, 3) / 20.0
    exact = two_steps(x.double(), weight.double())
    for enabled, least in ((False, 1e-7), (True, 1e-3)):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            errors = [(f(x, weight) - exact).abs().max().item() for f in (trilinear_conv3d, two_steps)]
        assert errors[0] < 3.0 * errors[1] + least * exact.abs().max().item()


def twin_blocks(spectral: bool) -> list[UpBlock]:
    blocks = []
    for folded in (False, True):
        torch.manual_seed(0)
        blocks.append(UpBlock(16, 8, upsampling="resize_conv", spectral=spectral))
        blocks[-1].folded = folded
    return blocks


@pytest.mark.parametrize("spectral", [False, True])
def test_folded_up_block_is_the_unfolded_one_with_the_same_names(spectral: bool) -> None:
    plain, folded = twin_blocks(spectral)
    assert plain.state_dict().keys() == folded.state_dict().keys()
    x = torch.randn(2, 16, 3, 4, 5)
    found, expected = folded(x), plain(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    upstream = torch.randn_like(expected) * (expected > 1e-3)  # away from the kink of the ReLU
    for block, output in ((plain, expected), (folded, found)):
        output.backward(upstream)
        assert all(parameter.grad is not None for parameter in block.parameters())
    for ours, reference in zip(folded.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, reference.grad, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("spectral", [False, True])
def test_a_folded_up_block_can_recompute_its_activations(spectral: bool) -> None:
    results = []
    for recompute in (False, True):
        _, block = twin_blocks(spectral)
        block.recompute = recompute
        x = torch.randn(1, 16, 3, 4, 5, generator=torch.Generator().manual_seed(1)).requires_grad_()
        first, second = block(x), block(2.0 * x)
        (first * second).sum().backward()
        results.append([x.grad, *(parameter.grad for parameter in block.parameters()), *block.buffers()])
    for kept, again in zip(*results, strict=True):
        assert torch.equal(kept, again)


def test_a_folded_convolution_keeps_its_input_and_no_larger_volume() -> None:
    kept: set[tuple[int, ...]] = set()

    def pack(tensor: Tensor) -> Tensor:
        kept.add(tuple(tensor.shape))
        return tensor

    _, block = twin_blocks(spectral=False)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = trilinear_conv3d(torch.randn(1, 16, 8, 8, 8, requires_grad=True), block.layers[1].weight)  # type: ignore[arg-type]
    assert output.requires_grad
    assert all(len(shape) < 5 or shape[2:] == (3, 3, 3) for shape in kept), kept


def test_up_blocks_fold_large_grids_only_unless_told() -> None:
    plain, _ = twin_blocks(spectral=False)
    shapes: list[tuple[int, ...]] = []
    plain.layers[0].register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape)))
    plain.folded = None
    plain(torch.randn(1, 16, 4, 4, 4))
    assert shapes == [(1, 16, 8, 8, 8)]
    plain(torch.randn(1, 16, 16, 16, 16))
    assert len(shapes) == 1, "the up-sampled volume was computed"
