"""GroupNorm on a GPU."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec

import torch
from torch import Tensor


@lru_cache
def has_triton() -> bool:
    """Return whether Triton is installed."""
    return find_spec("triton") is not None


def fused_group_norm(x: Tensor, num_groups: int, weight: Tensor, bias: Tensor, eps: float, *, relu: bool) -> Tensor:
    """GroupNorm, and ReLU on request, in one pass over x [B, C, D, H, W] of a GPU; the result is channels-last.

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
        relu: whether to apply a ReLU.
    """
    from menvae.kernels.triton_group_norm import GroupNormOnGPU

    inputs = x.contiguous(memory_format=torch.channels_last_3d)
    out: Tensor = GroupNormOnGPU.apply(inputs, weight, bias, num_groups, eps, relu)  # type: ignore[no-untyped-call]
    return out


def can_fuse(x: Tensor, num_groups: int) -> bool:
    """Return whether `fused_group_norm` computes GroupNorm of x [B, C, D, H, W]."""
    channels = x.shape[1]
    is_power_of_two = channels & (channels - 1) == 0 and num_groups & (num_groups - 1) == 0
    return x.device.type == "cuda" and x.dim() == 5 and is_power_of_two and has_triton()
