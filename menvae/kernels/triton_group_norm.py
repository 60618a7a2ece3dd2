"""GroupNorm of channels-last volumes in Triton: two passes forward, two backward, everything in float32.

A volume [B, C, D, H, W] in channels-last order is a matrix of N = D H W rows of C channels a sample. The first pass of
each direction reduces chunks of rows, a small kernel joins the chunks of a group, and the second pass applies the
result. With x^ = (x - mean) rstd and the gradient g of the output, that of x is

    dx = rstd (weight g - mean_of_group(weight g) - x^ mean_of_group(weight g x^)).
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from menvae.differentiation import first_order

_TILE = 4096
"""Values that a program holds at a time."""
_PROGRAMS = 256
"""Chunks of rows over all samples: a few for each multiprocessor."""


@triton.jit
def _moments(x, partial, num_rows, STEPS: tl.constexpr, C: tl.constexpr, ROWS: tl.constexpr):
    """Mean, sum of squared deviations and count of each channel in a chunk (updated as in Chan et al. 1979)."""
    b, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    channel = tl.arange(0, C)
    mean, squares, count = tl.zeros([C], tl.float32), tl.zeros([C], tl.float32), 0.0
    for step in range(STEPS):
        row = (chunk * STEPS + step) * ROWS + tl.arange(0, ROWS)
        inside = (row < num_rows)[:, None]
        value = tl.load(x + (b * num_rows + row[:, None]) * C + channel[None, :], mask=inside, other=0.0).to(tl.float32)
        rows = tl.sum((row < num_rows).to(tl.float32), 0)
        tile_mean = tl.sum(value, 0) / tl.maximum(rows, 1.0)
        deviation = tl.where(inside, value - tile_mean[None, :], 0.0)
        delta = tile_mean - mean
        total = tl.maximum(count + rows, 1.0)
        mean += delta * (rows / total)
        squares += tl.sum(deviation * deviation, 0) + delta * delta * (count * rows / total)
        count += rows
    at = partial + ((b * tl.num_programs(1) + chunk) * 3) * C + channel
    tl.store(at, mean)
    tl.store(at + C, squares)
    tl.store(at + 2 * C, tl.zeros([C], tl.float32) + count)


@triton.jit
def _join_moments(partial, mean, rstd, num_chunks, eps, C: tl.constexpr, GROUP: tl.constexpr, CHUNKS: tl.constexpr):
    """Mean and 1 / sd of a group from those of its channels and chunks."""
    b, group = tl.program_id(0), tl.program_id(1)
    chunk, channel = tl.arange(0, CHUNKS), group * GROUP + tl.arange(0, GROUP)
    at = partial + ((b * num_chunks + chunk[:, None]) * 3) * C + channel[None, :]
    inside = (chunk < num_chunks)[:, None] & (channel < C)[None, :]
    means = tl.load(at, mask=inside, other=0.0)
    squares = tl.load(at + C, mask=inside, other=0.0)
    counts = tl.load(at + 2 * C, mask=inside, other=0.0)
    total = tl.sum(tl.sum(counts, 0), 0)
    of_group = tl.sum(tl.sum(means * (counts / total), 0), 0)
    deviation = tl.where(inside, means - of_group, 0.0)
    variance = tl.sum(tl.sum(squares + deviation * deviation * counts, 0), 0) / total
    tl.store(mean + b * tl.num_programs(1) + group, of_group)
    tl.store(rstd + b * tl.num_programs(1) + group, 1.0 / tl.sqrt(variance + eps))


@triton.jit
def _normalised(x, at, inside, mean, rstd, b, channel, C: tl.constexpr, GROUP: tl.constexpr):
    """Tile of x^."""
    group = b * (C // GROUP) + channel // GROUP
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    return (value - tl.load(mean + group)[None, :]) * tl.load(rstd + group)[None, :]


@triton.jit
def _apply(
    x, y, weight, bias, mean, rstd, num_rows,
    C: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(1).to(tl.int64)  # the second axis of a grid has at most 65,535 programs
    channel, row = tl.arange(0, C), tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    at, inside = (b * num_rows + row[:, None]) * C + channel[None, :], (row < num_rows)[:, None]
    normalised = _normalised(x, at, inside, mean, rstd, b, channel, C, GROUP)
    out = normalised * tl.load(weight + channel)[None, :] + tl.load(bias + channel)[None, :]
    tl.store(y + at, out.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _sums(
    x, dy, mean, rstd, partial, num_rows,
    STEPS: tl.constexpr, C: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Sums of g and g x^ of each channel in a chunk."""
    b, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    channel = tl.arange(0, C)
    plain, projected = tl.zeros([C], tl.float32), tl.zeros([C], tl.float32)
    for step in range(STEPS):
        row = (chunk * STEPS + step) * ROWS + tl.arange(0, ROWS)
        at, inside = (b * num_rows + row[:, None]) * C + channel[None, :], (row < num_rows)[:, None]
        normalised = _normalised(x, at, inside, mean, rstd, b, channel, C, GROUP)
        gradient = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32)
        plain += tl.sum(gradient, 0)
        projected += tl.sum(gradient * normalised, 0)
    at_partial = partial + ((b * tl.num_programs(1) + chunk) * 2) * C + channel
    tl.store(at_partial, plain)
    tl.store(at_partial + C, projected)


@triton.jit
def _join_sums(
    partial, weight, d_weight, d_bias, offset, slope, num_chunks, num_rows,
    C: tl.constexpr, GROUP: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    """Gradients of weight and bias for one sample and group, and the group's means of weight g and weight g x^."""
    b, group = tl.program_id(0), tl.program_id(1)
    chunk, channel = tl.arange(0, CHUNKS), group * GROUP + tl.arange(0, GROUP)
    at = partial + ((b * num_chunks + chunk[:, None]) * 2) * C + channel[None, :]
    inside = (chunk < num_chunks)[:, None] & (channel < C)[None, :]
    plain = tl.sum(tl.load(at, mask=inside, other=0.0), 0)
    projected = tl.sum(tl.load(at + C, mask=inside, other=0.0), 0)
    tl.store(d_bias + b * C + channel, plain)
    tl.store(d_weight + b * C + channel, projected)
    scale = tl.load(weight + channel) / (num_rows * GROUP)
    tl.store(offset + b * tl.num_programs(1) + group, tl.sum(scale * plain, 0))
    tl.store(slope + b * tl.num_programs(1) + group, tl.sum(scale * projected, 0))


@triton.jit
def _apply_backward(
    x, dy, dx, weight, mean, rstd, offset, slope, num_rows,
    C: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(1).to(tl.int64)  # the second axis of a grid has at most 65,535 programs
    channel, row = tl.arange(0, C), tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    at, inside = (b * num_rows + row[:, None]) * C + channel[None, :], (row < num_rows)[:, None]
    normalised = _normalised(x, at, inside, mean, rstd, b, channel, C, GROUP)
    gradient = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32)
    group = b * (C // GROUP) + channel // GROUP
    common = tl.load(offset + group)[None, :] + tl.load(slope + group)[None, :] * normalised
    out = tl.load(rstd + group)[None, :] * (tl.load(weight + channel)[None, :] * gradient - common)
    tl.store(dx + at, out.to(dx.dtype.element_ty), mask=inside)


class GroupNormOnGPU(torch.autograd.Function):
    """See `menvae.kernels.group_norm.fused_group_norm`; x must be channels-last."""

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, num_groups: int, eps: float
    ) -> Tensor:
        batch, channels = x.shape[:2]
        num_rows = x.shape[2:].numel()
        rows, steps, chunks = _chunks(batch, num_rows, channels)
        weight, bias = weight.float(), bias.float()
        partial = x.new_empty((batch, chunks, 3, channels), dtype=torch.float32)
        mean, rstd = x.new_empty((2, batch, num_groups), dtype=torch.float32)
        group = channels // num_groups
        _moments[(batch, chunks)](x, partial, num_rows, steps, channels, rows)
        padded = triton.next_power_of_2(chunks)
        _join_moments[(batch, num_groups)](partial, mean, rstd, chunks, eps, channels, group, padded)
        y = torch.empty_like(x)
        grid = (triton.cdiv(num_rows, rows), batch)
        _apply[grid](x, y, weight, bias, mean, rstd, num_rows, channels, group, rows)
        ctx.save_for_backward(x, weight, mean, rstd)
        return y

    @staticmethod
    @first_order
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        x, weight, mean, rstd = ctx.saved_tensors
        dy = gradients[0].contiguous(memory_format=torch.channels_last_3d)
        batch, channels = x.shape[:2]
        num_groups, num_rows = mean.shape[1], x.shape[2:].numel()
        group = channels // num_groups
        rows, steps, chunks = _chunks(batch, num_rows, channels)
        partial = x.new_empty((batch, chunks, 2, channels), dtype=torch.float32)
        d_weight, d_bias = x.new_empty((2, batch, channels), dtype=torch.float32)
        offset, slope = torch.empty_like(mean), torch.empty_like(mean)
        _sums[(batch, chunks)](x, dy, mean, rstd, partial, num_rows, steps, channels, group, rows)
        padded = triton.next_power_of_2(chunks)
        _join_sums[(batch, num_groups)](
            partial, weight, d_weight, d_bias, offset, slope, chunks, num_rows, channels, group, padded
        )
        dx = torch.empty_like(x)
        grid = (triton.cdiv(num_rows, rows), batch)
        _apply_backward[grid](x, dy, dx, weight, mean, rstd, offset, slope, num_rows, channels, group, rows)
        return dx, d_weight.sum(dim=0), d_bias.sum(dim=0), None, None


def _chunks(batch: int, num_rows: int, channels: int) -> tuple[int, int, int]:
    """Return rows of a tile, tiles of a chunk, and chunks of a sample."""
    rows = max(1, _TILE // channels)
    wanted = max(1, _PROGRAMS // batch)
    steps = triton.next_power_of_2(triton.cdiv(num_rows, rows * wanted))  # a constant of the kernel: few compilations
    return rows, steps, triton.cdiv(num_rows, rows * steps)
