"""GroupNorm of volumes: accurate in channels-last order on a CPU, fast on a GPU, and with little memory on both."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from menvae.differentiation import first_order


@lru_cache
def has_triton() -> bool:
    """Return whether Triton is installed."""
    return find_spec("triton") is not None


def fused_group_norm(x: Tensor, num_groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """GroupNorm of x [B, C, D, H, W] of a GPU; the result is channels-last.

    torch 2.13 computes the moments of GroupNorm on CUDA with one block of threads a sample and group: 16 blocks on the
    132 multiprocessors of an H200 for two samples. It also computes in float32 under autocast, and makes channels-last
    inputs contiguous. This one spreads the moments over the device, keeps the dtype of x, computes in float32, and
    keeps x alone for the backward pass.

    Args:
        x: on a GPU, float32, bfloat16 or float16; C / ``num_groups`` a power of two, as Triton's blocks are.
        num_groups: G.
        weight: [C].
        bias: [C].
        eps: added to the variance.
    """
    from menvae.kernels.triton_group_norm import GroupNormOnGPU

    inputs = x.contiguous(memory_format=torch.channels_last_3d)
    out: Tensor = GroupNormOnGPU.apply(inputs, weight, bias, num_groups, eps)  # type: ignore[no-untyped-call]
    return out


def can_fuse(x: Tensor, num_groups: int) -> bool:
    """Return whether `fused_group_norm` computes GroupNorm of x [B, C, D, H, W]."""
    channels = x.shape[1]
    is_power_of_two = channels & (channels - 1) == 0 and num_groups & (num_groups - 1) == 0
    is_computed_in_float32 = x.dtype in (torch.float32, torch.bfloat16, torch.float16)
    return x.device.type == "cuda" and x.dim() == 5 and is_computed_in_float32 and is_power_of_two and has_triton()


def centred_group_norm(x: Tensor, num_groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """GroupNorm of x minus the mean of each group, which is GroupNorm of x, computed by torch.

    GroupNorm ignores a constant that is added to a group. Its gradient is that of GroupNorm itself, because that of a
    normalised group is orthogonal to constants.

    Args:
        x: [B, C, D, H, W].
        num_groups: G.
        weight: [C].
        bias: [C].
        eps: added to the variance.
    """
    return torch.nn.functional.group_norm(x - _means(x, num_groups), num_groups, weight, bias, eps)


@torch.no_grad()
def _means(x: Tensor, num_groups: int) -> Tensor:
    """Mean of each group, [B, C, 1, 1, 1]."""
    of_channels = x.mean(dim=(2, 3, 4)).view(len(x), num_groups, -1)
    return of_channels.mean(dim=2, keepdim=True).expand_as(of_channels).reshape(*x.shape[:2], 1, 1, 1)


def half_group_norm(x: Tensor, num_groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """GroupNorm of a channels-last x of 16 bits on a CPU, whose gradient torch computes in float32.

    In bfloat16, torch 2.13 takes two to four times as long for it as for the conversions and the gradient in float32.

    Args:
        x: [B, C, D, H, W].
        num_groups: G.
        weight: [C].
        bias: [C].
        eps: added to the variance.
    """
    if torch.compiler.is_compiling():
        return torch.nn.functional.group_norm(x, num_groups, weight, bias, eps)
    out: Tensor = _HalfGroupNorm.apply(x, weight, bias, num_groups, eps)  # type: ignore[no-untyped-call]
    return out


class _HalfGroupNorm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, num_groups: int, eps: float) -> Tensor:
        batch, channels, *sides = x.shape
        ctx.sizes = batch, channels, torch.Size(sides).numel(), num_groups
        out: Tensor
        out, mean, rstd = torch.ops.aten.native_group_norm(x, weight, bias, *ctx.sizes, eps)
        ctx.save_for_backward(x, weight, mean, rstd)
        return out

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, rstd = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last_3d)
        in_float32 = [tensor.float() for tensor in (gradient, x, mean, rstd, weight)]
        needed = list(ctx.needs_input_grad[:3])
        of_x, *rest = torch.ops.aten.native_group_norm_backward(*in_float32, *ctx.sizes, needed)
        return (None if of_x is None else of_x.to(x.dtype), *rest, None, None)
