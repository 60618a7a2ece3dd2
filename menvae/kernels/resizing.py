"""Change of resolution: up-sampling and convolution as one, trilinear interpolation, means and minima of boxes.

Up-sampling by 2 and a same-padded 3x3x3 convolution are computed as one transposed convolution on the coarse grid.

Nearest up-sampling repeats every voxel, so that two of three taps along an axis fall on the same coarse voxel and can
be added first: kernel 4, stride 2, 64 instead of 216 products for the 8 voxels of a coarse one.

Trilinear up-sampling (``align_corners=False``) is nearest up-sampling followed by the filter [1, 2, 1] / 4 along each
axis, because [1, 3, 3, 1] = [1, 1] * [1, 2, 1]. A filter and a convolution commute, so the filter may follow the
convolution, where it costs six additions a voxel: as few products as nearest up-sampling, and no up-sampled input.

Borders are exact: the interpolation repeats the outermost voxels, so the transposed convolution runs on an input
padded so; the convolution pads with zeros, so what the padding adds to the six faces is subtracted, six 2D
convolutions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import FunctionCtx
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import conv2d, conv_transpose3d, interpolate

from menvae.differentiation import first_order

_SPATIAL = (2, 3, 4)
_SIDES = tuple((axis, side) for axis in _SPATIAL for side in (0, -1))
_SLAB = 2**17
"""Values that are filtered at a time on a CPU: 0.5 MB and its intermediate results stay in the cache of a core."""


def nearest_conv3d(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Nearest up-sampling by 2, then a same-padded convolution.

    Args:
        x: [B, C, D, H, W].
        weight: [C', C, 3, 3, 3].
        bias: [C'].

    Returns:
        [B, C', 2 D, 2 H, 2 W], equal to the two steps up to rounding, also at the borders.
    """
    return conv_transpose3d(x, _nearest_weight(weight), bias, stride=2, padding=1)


def trilinear_conv3d(x: Tensor, weight: Tensor) -> Tensor:
    """Trilinear up-sampling by 2 (``align_corners=False``), then a same-padded convolution.

    Args:
        x: [B, C, D, H, W].
        weight: [C', C, 3, 3, 3].

    Returns:
        [B, C', 2 D, 2 H, 2 W], equal to the two steps up to rounding, also at the borders. The gradient is
        deterministic on a GPU, unlike that of `torch.nn.Upsample`.
    """
    is_half = torch.is_autocast_enabled(x.device.type) or x.dtype.itemsize < 4
    scale = 1.0 if is_half else 1.0 / 64.0  # a power of 2: exact, but 1 / 64 of a float16 may have lost digits
    padded, *planes = _Bordered.apply(x)  # type: ignore[no-untyped-call]
    with saved_tensors_hooks(*_padded_again(padded, x)):
        nearest = conv_transpose3d(padded, _nearest_weight(weight, scale), stride=2, padding=2)
    smoothed: Tensor = _Smoothed.apply(nearest, is_half, *_padding_faces(planes, weight))  # type: ignore[no-untyped-call]
    return smoothed


def trilinear(x: Tensor, size: Sequence[int]) -> Tensor:
    """Trilinear interpolation (``align_corners=False``) by a matrix product along each axis.

    Args:
        x: [B, C, D, H, W].
        size: (D', H', W').

    Returns:
        [B, C, *size], equal to `torch.nn.functional.interpolate` up to rounding, in a fraction of its time on a CPU.
        The gradient is deterministic on a GPU.
    """
    first, second, third = (_constant(_linear, x, wanted, side) for wanted, side in zip(size, x.shape[2:], strict=True))
    x = second @ (x.contiguous() @ third.T)
    return (first @ x.flatten(3)).reshape(*x.shape[:2], *size)


def mean_of_boxes(x: Tensor, side: int) -> Tensor:
    """Mean of each box of voxels.

    Args:
        x: [B, C, D, H, W], sides multiples of ``side``.
        side: of the boxes, a power of 2.

    Returns:
        [B, C, D / side, H / side, W / side], equal to `torch.nn.functional.avg_pool3d` up to rounding, which in 16
        bits happens at every step. On a CPU it takes a fifth of the time of that function, which copies channels-last
        volumes first (at 64^3). Meant for inputs without gradient: that of a slice fills a volume.
    """
    return _halved_over(torch.add, x, side) / side**3


def smallest_of_boxes(x: Tensor, side: int) -> Tensor:
    """Smallest value of each box of voxels: `mean_of_boxes` for the minimum, without a meaningful gradient at ties."""
    return _halved_over(torch.minimum, x, side)


def _halved_over(join: Callable[[Tensor, Tensor], Tensor], x: Tensor, side: int) -> Tensor:
    """Join neighbours along each axis until a box of ``side`` voxels is one."""
    assert side & (side - 1) == 0, "a power of 2"
    depth, height, width = x.shape[2:]
    assert depth % side == height % side == width % side == 0, "boxes fill the volume"
    while side > 1:
        x = join(x[:, :, ::2], x[:, :, 1::2])
        x = join(x[:, :, :, ::2], x[:, :, :, 1::2])
        x = join(x[..., ::2], x[..., 1::2])
        side //= 2
    return x


def _padded_again(padded: Tensor, x: Tensor) -> tuple[Callable[[Tensor], Tensor | None], Callable[[Any], Tensor]]:
    """Return hooks that keep ``x``, which the layer before it keeps too, and pad it again in the backward pass."""
    storage, source = padded.untyped_storage()._cdata, x.detach()  # not data_ptr, which is 0 without values

    def pack(tensor: Tensor) -> Tensor | None:
        return None if tensor.untyped_storage()._cdata == storage else tensor

    def unpack(kept: Tensor | None) -> Tensor:
        return _padded(source) if kept is None else kept

    return pack, unpack


def _nearest_weight(weight: Tensor, scale: float = 1.0) -> Tensor:
    """Weight [C', C, 3, 3, 3] of a convolution -> [C, C', 4, 4, 4] of the transposed one, times ``scale``."""
    num_out, num_in = weight.shape[:2]
    with torch.autocast(weight.device.type, enabled=False):
        weights = weight.reshape(num_out * num_in, 27) @ _constant(_sums_of_taps, weight, scale)
    return weights.view(num_out, num_in, 4, 4, 4).transpose(0, 1)


def _constant(make: Callable[..., Tensor], like: Tensor, *args: float) -> Tensor:
    """Return ``make(*args, dtype, device)``, made once for the type and device of ``like``.

    A step that is traced without values makes it anew, because tensors of a trace and of a real step cannot meet.
    """
    keep = _kept if type(like) in (Tensor, nn.Parameter) else _made
    return keep(make, args, like.dtype, like.device)


def _made(make: Callable[..., Tensor], args: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(mode=False):
        return make(*args).to(device, dtype)


_kept = cache(_made)


def _sums_of_taps(scale: float) -> Tensor:
    """Matrix [27, 64] from the taps of a convolution to those of the transposed convolution of kernel 4, stride 2."""
    one = torch.tensor([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], dtype=torch.float64)
    return scale * torch.einsum("ap,bq,cr->pqrabc", one, one, one).reshape(27, 64)


def _padding_faces(planes: Sequence[Tensor], weight: Tensor) -> list[Tensor]:
    """Return what the outermost voxels would get from an up-sampled input that goes on beyond the six faces.

    An edge belongs to the faces of its first axis: planes of an axis go on along later axes, and end along earlier
    ones.

    Args:
        planes: first and last plane along each axis, as `_Bordered` returns them.
        weight: [C', C, 3, 3, 3].

    Returns:
        [B, C', ...], two of [2 H, 2 W], then of [2 D, 2 W], then of [2 D, 2 H].
    """
    faces = []
    for axis, pair in zip(_SPATIAL, planes, strict=True):
        continues_down, continues_along = (other > axis for other in _SPATIAL if other != axis)
        down = _constant(_doubling, pair, pair.shape[2], continues_down)
        along = _constant(_doubling, pair, pair.shape[3], continues_along)
        large = (down @ pair.flatten(3)).view(*pair.shape[:2], -1, *pair.shape[3:])
        before, after = (along @ large).permute(0, 1, 4, 2, 3)
        taps_before, _, taps_after = weight.unbind(axis)
        faces += [conv2d(before, taps_before), conv2d(after, taps_after)]
    return faces


def _linear(wanted: int, side: int) -> Tensor:
    """Matrix [m, n] of linear interpolation from n to m voxels."""
    identity = torch.eye(side, dtype=torch.float64).unsqueeze(1)
    return interpolate(identity, size=wanted, mode="linear", align_corners=False).squeeze(1).T


def _doubling(side: int, continues: bool) -> Tensor:
    """Matrix [2 n + 2, n] of linear up-sampling by 2 along an axis of n voxels and one voxel of padding at each end.

    Args:
        side: n.
        continues: whether the padding repeats the outermost values, or is zero.

    Returns:
        Multiples of 1 / 4.
    """
    identity = torch.eye(side, dtype=torch.float64)
    before = torch.cat([identity[:1], identity[:-1]])
    after = torch.cat([identity[1:], identity[-1:]])
    inner = torch.stack([0.25 * before + 0.75 * identity, 0.75 * identity + 0.25 * after], 1).flatten(0, 1)
    ends = (inner[:1], inner[-1:]) if continues else (torch.zeros(1, side), torch.zeros(1, side))
    return torch.cat([ends[0], inner, ends[1]])


class _Bordered(Function):
    """Repeat the outermost voxels, and return the outermost planes for `_padding_faces`.

    One function, because each slice of a volume has a gradient of the size of the volume.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> tuple[Tensor, ...]:
        """X [B, C, D, H, W] -> [B, C, D + 2, H + 2, W + 2], then planes [2, B, H, W, C], [2, B, D, W, C], ..."""
        planes = [torch.stack([x.select(axis, side).movedim(1, 3) for side in (0, -1)]) for axis in _SPATIAL]
        return _padded(x), *planes

    @staticmethod
    @first_order
    def backward(ctx: FunctionCtx, of_padded: Tensor, *of_planes: Tensor) -> Tensor:
        """Add the gradients of copies to that of the voxel."""
        gradient = of_padded.clone(memory_format=torch.preserve_format)
        for axis in _SPATIAL:
            for outer, inner in ((0, 1), (-1, -2)):
                gradient.select(axis, inner).add_(gradient.select(axis, outer))
            gradient = gradient.narrow(axis, 1, gradient.shape[axis] - 2)
        for axis, of_pair in zip(_SPATIAL, of_planes, strict=True):
            for side, of_plane in zip((0, -1), of_pair, strict=True):
                gradient.select(axis, side).add_(of_plane.movedim(3, 1))
        return gradient


def _padded(x: Tensor) -> Tensor:
    """Repeat the outermost voxels: [B, C, D, H, W] -> [B, C, D + 2, H + 2, W + 2]."""
    batch, channels, depth, height, width = x.shape
    padded = _empty((batch, channels, depth + 2, height + 2, width + 2), x)
    padded[:, :, 1:-1, 1:-1, 1:-1] = x
    for axis in _SPATIAL:
        for outer, inner in ((0, 1), (-1, -2)):
            padded.select(axis, outer).copy_(padded.select(axis, inner))
    return padded


class _Smoothed(Function):
    """Filter [1, 2, 1] along each axis, without the outermost voxels, minus ``faces`` on those of the result.

    Linear: nothing is kept for the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, normed: bool, *faces: Tensor) -> Tensor:
        """X [B, C, D + 2, H + 2, W + 2] -> [B, C, D, H, W], divided by 64 if ``normed``."""
        ctx.normed = normed
        batch, channels, *sides = x.shape
        smoothed = _empty((batch, channels, *(side - 2 for side in sides)), x)
        for samples, planes in _slabs(smoothed):
            _smooth(x[samples, :, planes.start : planes.stop + 2], smoothed[samples, :, planes], normed=normed)
        for (axis, side), face in zip(_SIDES, faces, strict=True):
            smoothed.select(axis, side).sub_(face)
        return smoothed

    @staticmethod
    @first_order
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Filter the gradient, padded by two zeros; the filter is symmetric."""
        normed: bool = ctx.normed  # type: ignore[attr-defined]
        batch, channels, depth, height, width = gradient.shape
        result = _empty((batch, channels, depth + 2, height + 2, width + 2), gradient)
        for samples, planes in _slabs(result):
            first, last = max(planes.start - 2, 0), min(planes.stop, depth)
            part = gradient[samples, :, first:last]
            size = (len(part), channels, planes.stop - planes.start + 2, height + 4, width + 4)
            padded = _empty(size, gradient).zero_()
            offset = first - (planes.start - 2)
            padded[:, :, offset : offset + last - first, 2:-2, 2:-2] = part
            _smooth(padded, result[samples, :, planes], normed=normed)
        return result, None, *(-gradient.select(axis, side) for axis, side in _SIDES)


def _empty(size: tuple[int, ...], like: Tensor) -> Tensor:
    """Return memory in the memory format, type and device of ``like``."""
    channels_last = like.is_contiguous(memory_format=torch.channels_last_3d) and not like.is_contiguous()
    memory_format = torch.channels_last_3d if channels_last else torch.contiguous_format
    return torch.empty(size, dtype=like.dtype, device=like.device, memory_format=memory_format)


def _slabs(volume: Tensor) -> Iterator[tuple[slice, slice]]:
    """Yield samples and planes of [B, C, D, H, W] that are filtered together: all of them on a GPU."""
    batch, channels, depth, height, width = volume.shape
    plane = channels * height * width
    if volume.device.type != "cpu":
        num_samples, num_planes = batch, depth
    else:
        num_samples = min(batch, max(1, _SLAB // (plane * depth)))
        num_planes = min(depth, max(1, _SLAB // plane))
    for sample in range(0, batch, num_samples):
        for first in range(0, depth, num_planes):
            yield slice(sample, min(sample + num_samples, batch)), slice(first, min(first + num_planes, depth))


def _smooth(x: Tensor, result: Tensor, *, normed: bool) -> None:
    """Filter with [1, 2, 1] along each axis into ``result``, whose sides are shorter by 2; sums are in float32."""
    if normed:
        x = x.float() / 64.0
    x = torch.add(x[:, :, :-2], x[:, :, 1:-1], alpha=2).add_(x[:, :, 2:])
    x = x[:, :, :, :-1] + x[:, :, :, 1:]
    x = x[:, :, :, :-1] + x[:, :, :, 1:]
    x = x[..., :-1] + x[..., 1:]
    if x.dtype == result.dtype:
        torch.add(x[..., :-1], x[..., 1:], out=result)
    else:
        result.copy_(x[..., :-1] + x[..., 1:])
