"""Layers that encoders and decoders share: group-normalised 3D convolutions, and perceptrons for rows of a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.parametrize import is_parametrized
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from menvae.collectives import mean_over_ranks, num_ranks
from menvae.errors import UserError
from menvae.kernels.group_norm import can_fuse, centred_group_norm, fused_group_norm, half_group_norm
from menvae.kernels.resizing import nearest_conv3d, trilinear_conv3d

NUM_GROUPS = 8
"""Groups of every GroupNorm (spec: GroupNorm everywhere, never BatchNorm)."""

STRIDE = 16
"""Input voxels per voxel of the coarsest grid: a stride-2 stem and three stride-2 layers, or four up-blocks."""

Upsampling = Literal["resize_conv", "nearest", "transposed"]

Activation = Literal["linear", "tanh"]
"""Activations of `OutputActivation`; ``tanh`` is for intensities in [-1, 1]."""


_LARGEST_OF_IM2COL = 20480


class Conv3d(nn.Conv3d):
    """`torch.nn.Conv3d` that avoids two faults of torch 2.13 on a CPU.

    An input less deep than the kernel stays in float32: part of the bfloat16 weight gradient of such a convolution is
    left uninitialised, often NaN, for a 3x3x3 kernel if D is 2, for any H and W. Kernels of size 1 are correct, and so
    are transposed convolutions of kernel 4 and stride 2.

    A single float32 volume is convolved as two overlapping halves: where C D H is at most 20480, torch has a batch of
    one computed by im2col, several times as slow as a batch of two, with a copy of the input for each tap.
    """

    def forward(self, x: Tensor) -> Tensor:
        """X [B, C, D, H, W] -> [B, C', D', H', W']."""
        if x.device.type == "cpu":
            is_autocast = torch.is_autocast_enabled("cpu")
            if is_autocast and x.shape[2] < self.kernel_size[0]:
                with torch.autocast("cpu", enabled=False):
                    return self.forward(x.float())
            if not is_autocast and self._takes_im2col(x):
                return self._in_halves(x)
        return super().forward(x)

    def _takes_im2col(self, x: Tensor) -> bool:
        is_small = len(x) == 1 and x.dtype == torch.float32 and math.prod(x.shape[1:4]) <= _LARGEST_OF_IM2COL
        return is_small and self.stride == (1, 1, 1) and self.kernel_size != (1, 1, 1) and x.shape[2] % 2 == 0

    def _in_halves(self, x: Tensor) -> Tensor:
        """Convolve the halves of x [1, C, D, H, W] along D, each with the planes that its outermost outputs need."""
        margin, half = self.kernel_size[0] // 2, x.shape[2] // 2
        padded = functional.pad(x, (0, 0, 0, 0, margin, margin))
        halves = torch.cat([padded[:, :, : half + 2 * margin], padded[:, :, half:]])
        padding = (0, self.kernel_size[1] // 2, self.kernel_size[2] // 2)
        convolved = functional.conv3d(halves, self.weight, self.bias, padding=padding)
        return torch.cat([convolved[:1], convolved[1:]], dim=2)


class GroupNorm(nn.GroupNorm):
    """`torch.nn.GroupNorm` that is accurate for channels-last float32 volumes on CPU, and fast on a GPU.

    On CPU, torch 2.13 computes the variance of channels-last input in one pass, as E[x^2] - E[x]^2 in float32, which
    cancels: at mean 100 and standard deviation 0.01 nothing is left of it. See `centred_group_norm`, `half_group_norm`
    for 16 bits, and `fused_group_norm` for a GPU.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Input [B, C, D, H, W] -> the same shape."""
        if can_fuse(input, self.num_groups):
            return fused_group_norm(input, self.num_groups, self.weight, self.bias, self.eps)
        if input.device.type == "cpu" and input.is_contiguous(memory_format=torch.channels_last_3d):
            if input.dtype == torch.float32:
                return centred_group_norm(input, self.num_groups, self.weight, self.bias, self.eps)
            if input.dtype in (torch.bfloat16, torch.float16):
                return half_group_norm(input, self.num_groups, self.weight, self.bias, self.eps)
        return super().forward(input)


class NearestConv3d(nn.Conv3d):
    """Nearest up-sampling by 2, then a same-padded 3x3x3 convolution, computed as one (`nearest_conv3d`)."""

    def forward(self, x: Tensor) -> Tensor:
        """X [B, C, D, H, W] -> [B, C', 2 D, 2 H, 2 W]."""
        return nearest_conv3d(x, self.weight, self.bias)


def conv(
    in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, bias: bool = True, spectral: bool = False
) -> nn.Module:
    """Return a same-padded 3D convolution, optionally with spectral norm (Miyato et al. 2018).

    On a convolution without bias that feeds a GroupNorm, a spectral norm changes only the scale of the weight: it
    exists to reproduce Run 6, and bounds no Lipschitz constant.
    """
    layer = Conv3d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=bias)
    return with_spectral_norm(layer) if spectral else layer


def with_spectral_norm(layer: nn.Module) -> nn.Module:
    """Return a layer with a spectral norm; a weight on the meta device (`without_weights`) is replaced by ones."""
    weight = layer.get_parameter("weight")
    if weight.is_meta:
        layer.register_parameter("weight", nn.Parameter(torch.ones(weight.shape, device="cpu")))
    return spectral_norm(layer)


_DRAWS = (Tensor.normal_, Tensor.uniform_)


class without_weights(TorchFunctionMode):  # noqa: N801 - a context, as torch.no_grad is
    """A context in which modules get weights on the meta device: shapes without values.

    Everything else that a constructor computes, such as a grid of coordinates, is computed. Under
    ``torch.device("meta")`` such computations and weight initialisation run in Python kernels, whose first use imports
    torch._dynamo and sympy: 1.4 s for a model that takes 0.03 s with weights.
    """

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call ``func``; empty tensors go to the meta device, unless a device is given, as in `torch.load`."""
        if func is torch.empty and (kwargs or {}).get("device") is None:
            kwargs = {**(kwargs or {}), "device": "meta"}
        elif func in _DRAWS and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


def set_memory_format(module: nn.Module, memory_format: torch.memory_format) -> None:
    """Set the memory format of 3D convolution weights; `torch.nn.Module.to` applies it to 2D weights too and fails.

    Args:
        module: every parameter and buffer with five axes is changed in place.
        memory_format: such as ``torch.channels_last_3d``.
    """
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.ndim == 5:
            tensor.data = tensor.data.contiguous(memory_format=memory_format)


def stored_weight(layer: nn.Module) -> Tensor:
    """Return the weight that is trained: under a spectral norm, the one before it."""
    name = "parametrizations.weight.original" if is_parametrized(layer, "weight") else "weight"
    return layer.get_parameter(name)


def weight_of(layer: nn.Module) -> Tensor:
    """Return the weight that a layer applies: under a spectral norm, the one after it."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight


def norm(channels: int) -> GroupNorm:
    """Return GroupNorm with 8 groups.

    Raises:
        UserError: ``channels`` is not a multiple of 8.
    """
    if channels % NUM_GROUPS:
        raise UserError(f"base_filters gives a layer of {channels} channels; GroupNorm needs multiples of {NUM_GROUPS}")
    return GroupNorm(NUM_GROUPS, channels)


class OutputActivation(nn.Module):
    """Activation of a decoder's last convolution.

    It declares its range, so that an experiment whose intensities exceed it is refused when it is built
    (`menvae.composition.compatibility.check_reach`): with z-scores of about -1 to 10, a tanh leaves a floor of 0.15 in
    the mean squared error.

    Attributes:
        name: ``linear`` or ``tanh``.
        reach: the open interval of its values.
    """

    def __init__(self, name: Activation) -> None:
        """Args: name: see the class."""
        super().__init__()
        self.name: Activation = name
        self.reach = (-1.0, 1.0) if name == "tanh" else (-math.inf, math.inf)

    def forward(self, x: Tensor) -> Tensor:
        """X of any shape -> the same shape."""
        return torch.tanh(x) if self.name == "tanh" else x


class Recomputable(nn.Module):
    """A block that can recompute its activations in the backward pass instead of storing them (Chen et al. 2016).

    A subclass defines `compute` instead of ``forward``. `recompute_activations` turns recomputation on for a model.
    Outputs and gradients are unchanged: the random state is restored, and buffers that a forward pass changes (the
    vectors of a spectral norm) temporarily hold their earlier values.

    Attributes:
        recompute: whether activations are recomputed.
    """

    recompute: bool = False

    def compute(self, x: Tensor) -> Tensor:
        """X [B, C, D, H, W] -> [B, C', D', H', W']."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """X [B, C, D, H, W] -> [B, C', D', H', W']."""
        if not (self.recompute and torch.is_grad_enabled()):
            return self.compute(x)
        return recomputed(self.compute, list(self.buffers()), x)


def recomputed(compute: Callable[..., Tensor], buffers: Sequence[Tensor], *inputs: Tensor | None) -> Tensor:
    """Return ``compute(*inputs)``, whose activations are computed again in the backward pass instead of stored.

    Args:
        compute: a module, or a method of one.
        buffers: its buffers, which a forward pass may change.
        inputs: inputs of ``compute``.
    """
    if not buffers:
        return checkpoint(compute, *inputs, use_reentrant=False)  # type: ignore[no-any-return]
    return checkpoint(  # type: ignore[no-any-return]
        compute, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), _AsTheyWere(buffers))
    )


class _AsTheyWere:
    """A context in which buffers hold the values that they had when it was created."""

    def __init__(self, buffers: Sequence[Tensor]) -> None:
        self.buffers = buffers
        self.before = [buffer.clone() for buffer in buffers]
        self.now: list[Tensor] = []

    @torch.no_grad()
    def __enter__(self) -> None:
        self.now = [buffer.clone() for buffer in self.buffers]
        for buffer, value in zip(self.buffers, self.before, strict=True):
            buffer.copy_(value)

    @torch.no_grad()
    def __exit__(self, *error: object) -> None:
        for buffer, value in zip(self.buffers, self.now, strict=True):
            buffer.copy_(value)


def recompute_activations(model: nn.Module, *, compiled: bool = False) -> None:
    """Make every `Recomputable` block of a model recompute its activations: less memory, a third more time.

    Blocks without parameters are skipped: those of a frozen encoder, whose weights are buffers, store no activations.

    Args:
        model: its blocks are changed in place.
        compiled: whether it will be compiled.

    Raises:
        UserError: the model has no such block, or ``compiled`` and a block has both parameters and buffers, which
            `torch.compile` cannot trace.
    """
    blocks = [module for module in model.modules() if isinstance(module, Recomputable) and list(module.parameters())]
    if not blocks:
        raise UserError("trainer.activation_checkpointing: true is not allowed; this model has no block to recompute")
    if compiled and any(True for block in blocks for _ in block.buffers()):
        raise UserError(
            "trainer.activation_checkpointing: true is not allowed with trainer.compile=true where blocks have a "
            "spectral norm; turn one of the three off"
        )
    for block in blocks:
        block.recompute = True


_SMALLEST_FOLDED = 16**3
"""Voxels of the smallest coarse grid that is folded: on 16^3 and 32^3, folding takes two thirds of the time of the two
steps, forward and backward; on 8^3 the six faces cost more than they save."""


class UpBlock(Recomputable):
    """Doubles the grid: up-sampling and 3x3x3 convolution, GroupNorm (unless ``normed`` is off), ReLU.

    ``resize_conv`` is trilinear interpolation followed by the convolution; ``nearest`` is nearest interpolation
    followed by the convolution, computed as one (`NearestConv3d`); ``transposed`` is a transposed convolution of kernel
    4 and stride 2 whose weights are all free. The last two take half to two thirds of the time of the first.

    Attributes:
        folded: whether ``resize_conv`` is computed as one (`menvae.kernels.resizing.trilinear_conv3d`), equal up to
            rounding. None: where that was measured to be faster, on a CPU for large grids only.
    """

    folded: bool | None = None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        upsampling: Upsampling,
        spectral: bool = False,
        normed: bool = True,
    ) -> None:
        grow: list[nn.Module]
        if upsampling == "resize_conv":
            grow = [
                nn.Upsample(scale_factor=2, mode="trilinear", align_corners=False),
                conv(in_channels, out_channels, 3, bias=False, spectral=spectral),
            ]
        elif upsampling == "nearest":
            nearest = NearestConv3d(in_channels, out_channels, 3, bias=False)
            grow = [with_spectral_norm(nearest) if spectral else nearest]
        else:
            transposed = nn.ConvTranspose3d(in_channels, out_channels, 4, stride=2, padding=1, bias=False)
            grow = [with_spectral_norm(transposed) if spectral else transposed]
        normalise = [norm(out_channels)] if normed else []
        super().__init__()
        self.upsampling = upsampling
        self.layers = nn.Sequential(*grow, *normalise, nn.ReLU(inplace=True))

    def compute(self, x: Tensor) -> Tensor:
        """X [B, C, D, H, W] -> [B, C', 2 D, 2 H, 2 W]."""
        if self.upsampling == "resize_conv" and self._folds(x):
            out: Tensor = self.layers[2:](trilinear_conv3d(x, weight_of(self.layers[1])))
        else:
            out = self.layers(x)
        return out

    def _folds(self, x: Tensor) -> bool:
        if self.folded is not None:
            return self.folded
        is_large = x.shape[2] * x.shape[3] * x.shape[4] >= _SMALLEST_FOLDED
        return is_large and x.device.type == "cpu" and not torch.compiler.is_compiling()


def fold_upsampling(model: nn.Module, folded: bool | None) -> None:
    """Set `UpBlock.folded` of every block of a model."""
    for module in model.modules():
        if isinstance(module, UpBlock):
            module.folded = folded


def up_blocks(
    widths: Sequence[int], *, upsampling: Upsampling, spectral: bool, final_norm: bool = True
) -> nn.Sequential:
    """Return one `UpBlock` from each width to the next; the last without GroupNorm unless ``final_norm``."""
    last = len(widths) - 2
    return nn.Sequential(
        *(
            UpBlock(before, after, upsampling=upsampling, spectral=spectral, normed=final_norm or i < last)
            for i, (before, after) in enumerate(pairwise(widths))
        )
    )


def only_volumes(size: tuple[int, ...], owner: str) -> None:
    """Raise `UserError` unless ``size`` is a box of voxels."""
    if len(size) != 3:
        raise UserError(f"{owner} needs volumes, but the data are rows of a table: choose mlp")


def coarse_grid(size: tuple[int, ...], owner: str) -> tuple[int, int, int]:
    """Return the size of the grid that is 16 times coarser than a box of ``size`` voxels.

    Raises:
        UserError: ``size`` is not a box, or a side is not a multiple of 16.

    >>> coarse_grid((160, 160, 160), "encoder")
    (10, 10, 10)
    """
    only_volumes(size, owner)
    wrong = [side for side in size if side % STRIDE or side < STRIDE]
    if wrong:
        raise UserError(
            f"data.roi_size: {list(size)} has a side of {wrong[0]}, which {owner} cannot halve four times; "
            f"every side must be a multiple of {STRIDE}"
        )
    return (size[0] // STRIDE, size[1] // STRIDE, size[2] // STRIDE)


class BatchNorm1d(nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` over the joined batch of all ranks, so that every rank has the same statistics.

    Every rank must hold the same number of rows. `torch.nn.SyncBatchNorm` works on GPUs only.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Input [B, F] -> [B, F] in the dtype of the input; statistics in float32."""
        if not self.training or num_ranks() == 1:
            return super().forward(input)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        values = input.float()
        mean = mean_over_ranks(values.mean(dim=0))
        variance = mean_over_ranks((values - mean).square().mean(dim=0))
        num_rows = len(values) * num_ranks()
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * num_rows / (num_rows - 1), self.momentum)
        normed = (values - mean) * torch.rsqrt(variance + self.eps)
        return (normed * self.weight + self.bias).to(input.dtype)


def perceptron(widths: Sequence[int]) -> nn.Sequential:
    """Return Linear, ReLU, BatchNorm from each width to the next."""
    return nn.Sequential(
        *(
            layer
            for before, after in pairwise(widths)
            for layer in (nn.Linear(before, after), nn.ReLU(), BatchNorm1d(after))
        )
    )


def refuse_volumes(size: tuple[int, ...], owner: str) -> None:
    """Raise `UserError` if the inputs are volumes instead of rows of a table."""
    if size:
        raise UserError(f"{owner} needs rows of a table, but data.roi_size={list(size)} is a volume")
