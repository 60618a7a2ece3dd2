"""Triton's kernels on CPU, through Triton's interpreter (see conftest.py): the code that a GPU compiles."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import group_norm

pytest.importorskip("triton", reason="triton, of the test extra, is for Linux only")

from menvae.kernels.triton_group_norm import GroupNormOnGPU

fused: Callable[..., Tensor] = GroupNormOnGPU.apply


def _inputs(shape: tuple[int, ...], dtype: torch.dtype, offset: float) -> tuple[Tensor, ...]:
    x = (torch.randn(shape) * 0.5 + offset).to(dtype).contiguous(memory_format=torch.channels_last_3d)
    gradient = torch.randn(shape).to(dtype)  # of another memory format
    return x.requires_grad_(), torch.randn(shape[1]).requires_grad_(), torch.randn(shape[1]).requires_grad_(), gradient


def _in_float64(x: Tensor, weight: Tensor, bias: Tensor, gradient: Tensor) -> list[Tensor]:
    """Torch's own GroupNorm in double precision: output, and the gradients of x, weight and bias."""
    leaves = [value.detach().double().requires_grad_() for value in (x, weight, bias)]
    out = group_norm(leaves[0], 8, leaves[1], leaves[2], 1e-5)
    return [out.detach(), *torch.autograd.grad(out, leaves, gradient.double())]


CASES = {
    "uneven rows": ((2, 16, 5, 6, 7), torch.float32, 0.0, 1e-6),
    "several chunks": ((1, 64, 9, 16, 16), torch.float32, 1.0, 1e-5),
    "large mean": ((2, 8, 4, 4, 4), torch.float32, 100.0, 1e-4),
    "bfloat16": ((2, 32, 4, 4, 4), torch.bfloat16, 1.0, 4e-3),
    "one voxel": ((3, 64, 1, 1, 1), torch.float32, 0.0, 1e-5),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_equals_group_norm_in_float64(case: tuple[tuple[int, ...], torch.dtype, float, float]):
    shape, dtype, offset, tolerance = case
    x, weight, bias, gradient = _inputs(shape, dtype, offset)
    out = fused(x, weight, bias, 8, 1e-5)
    found = [out.detach(), *torch.autograd.grad(out, (x, weight, bias), gradient)]
    assert out.dtype == dtype
    assert out.is_contiguous(memory_format=torch.channels_last_3d)
    for name, value, expected in zip(
        ("y", "dx", "d weight", "d bias"), found, _in_float64(x, weight, bias, gradient), strict=True
    ):
        assert (value.double() - expected).norm() <= tolerance * expected.norm(), name


def test_keeps_x_alone_for_the_backward_pass():
    x, weight, bias, _ = _inputs((2, 16, 4, 4, 4), torch.float32, 0.0)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda value: kept.append(value) or value, lambda value: value):
        fused(x, weight, bias, 8, 1e-5)
    assert [value.data_ptr() for value in kept if value.numel() >= x.numel()] == [x.data_ptr()]
