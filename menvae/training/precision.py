"""Precision of the forward pass: autocast, what it costs on this device, and whether its results can be trusted."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import conv3d

from menvae.types import DTYPES, Batch, ModelOutput

LARGEST_DEVIATION = 0.05
"""Relative L2 distance from float32 above which a reconstruction is reported: bfloat16 keeps 8 bits, 0.4 % a value."""

_PROBES = {"cpu": (16, 12), "cuda": (32, 96)}
"""Channels and side of the convolution that is timed: small, as it may be slow, but enough to keep a GPU busy."""


def autocast(device: torch.device, precision: str, *, cached: bool = True) -> torch.autocast:
    """Return the autocast context of ``precision`` (see `menvae.training.settings.TrainerSettings`).

    Args:
        device: device of the model.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        cached: whether a weight is cast once per context instead of at each use.
    """
    dtype = DTYPES.get(precision)
    return torch.autocast(device.type, dtype, enabled=dtype is not None, cache_enabled=cached)


@torch.enable_grad()
def slowdown(device: torch.device, precision: str) -> float:
    """Return how many times longer a 3x3x3 convolution takes in ``precision`` than in fp32, forward and backward.

    A CPU without bfloat16 instructions emulates them: bf16 is then tens of times slower than fp32. Asking takes well
    under a second even there.
    """
    if precision == "fp32":
        return 1.0
    channels, side = _PROBES[device.type]
    x = torch.ones((1, channels, side, side, side), device=device).contiguous(memory_format=torch.channels_last_3d)
    weight = torch.ones((channels, channels, 3, 3, 3), device=device, requires_grad=True)
    return _seconds(x, weight, precision) / _seconds(x, weight, "fp32")


def _seconds(x: Tensor, weight: Tensor, precision: str) -> float:
    """Return the seconds of the fastest of three convolutions, after one to warm up."""
    found = []
    for _ in range(4):
        started = time.perf_counter()
        with autocast(x.device, precision):
            out = conv3d(x, weight, padding=1)
        torch.autograd.grad(out.float().sum(), weight)
        if x.device.type == "cuda":
            torch.cuda.synchronize(x.device)
        found.append(time.perf_counter() - started)
    return min(found[1:])


def slow_words(precision: str, factor: float, device: torch.device) -> str | None:
    """Return a sentence about a precision that is slower than fp32 on this device, or None.

    >>> slow_words("bf16", 38.2, torch.device("cpu"))
    'trainer.precision=bf16 is 38 times slower than fp32 on this cpu; use trainer.precision=fp32, or auto'
    >>> slow_words("bf16", 0.5, torch.device("cuda"))
    """
    if factor < 1.1:  # the clock
        return None
    times = f"{factor:.0f}" if factor >= 10 else f"{factor:.1f}"
    return (
        f"trainer.precision={precision} is {times} times slower than fp32 on this {device.type}; "
        "use trainer.precision=fp32, or auto"
    )


@torch.no_grad()
def deviation(model: nn.Module, batch: Batch, precision: str) -> float:
    """Return the relative L2 distance between the reconstructions of a batch in ``precision`` and in float32.

    Args:
        model: in any mode, which stays; evaluated in evaluation mode.
        batch: on the device of the model.
        precision: see `autocast`.
    """
    was_training = model.training
    model.eval()
    found: list[Tensor] = []
    for name in (precision, "fp32"):
        with autocast(batch.inputs.device, name):
            output: ModelOutput = model(batch)
        found.append(output.reconstruction.double())
    model.train(was_training)
    distance: float = (found[0] - found[1]).norm().item()
    size: float = found[1].norm().item()
    return distance / max(size, 1e-12)


@dataclass(frozen=True)
class Versions:
    """Versions of what computes convolutions on a GPU, as tuples of numbers; cuDNN None without a GPU."""

    torch: tuple[int, ...]
    cudnn: tuple[int, ...] | None

    @classmethod
    def installed(cls) -> Versions:
        """Return those of this process."""
        release = torch.__version__.partition("+")[0].split(".")
        number = torch.backends.cudnn.version() if torch.cuda.is_available() else None  # type: ignore[no-untyped-call]
        cudnn = None if number is None else (number // 10_000, number // 100 % 100, number % 100)
        return cls(tuple(int(part) for part in release if part.isdigit()), cudnn)


def known_faults(versions: Versions, num_values: int) -> list[str]:
    """Return sentences about versions that are known to compute 3D convolutions wrongly or slowly on a GPU.

    Args:
        versions: of torch and cuDNN.
        num_values: values of the largest activation, about the voxels of a batch times the channels of its first layer.

    >>> known_faults(Versions((2, 9, 0), (9, 10, 2)), 2**31)[0]
    'torch 2.9 with cuDNN 9.10.2 runs bf16 3D convolutions about 4 times slower than with cuDNN 9.15 or newer'
    >>> known_faults(Versions((2, 11, 0), (9, 19, 0)), 2**31)
    []
    """
    if versions.cudnn is None:
        return []
    cudnn = ".".join(map(str, versions.cudnn))
    found = []
    if versions.torch[:2] == (2, 9) and versions.cudnn < (9, 15):
        found.append(
            f"torch 2.9 with cuDNN {cudnn} runs bf16 3D convolutions about 4 times slower than with cuDNN 9.15 or newer"
        )
    if versions.cudnn == (9, 10, 2) and num_values >= 2**31:
        found.append(
            "cuDNN 9.10.2 gives wrong results for convolutions of 2^31 values or more; install another version"
        )
    return found
