"""What a device can do at most: arithmetic and memory, measured in a few seconds."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch.nn import functional

from menvae.cores import num_cores
from menvae.types import DTYPES

_SECONDS = 0.4
_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd")


@dataclass(frozen=True)
class Peaks:
    """Measured peaks of a device.

    Attributes:
        gflops: precision -> GFLOP/s, the better of a matrix product and a 3D convolution.
        gb_per_s: GB/s read and written by a copy.
    """

    gflops: dict[str, float]
    gb_per_s: float


def describe_machine(device: torch.device) -> dict[str, object]:
    """Return name, device, instruction sets, cores and versions of this machine."""
    import psutil

    cores = num_cores()
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        name, memory = properties.name, properties.total_memory
    else:
        name, memory = f"{cores} cores of {_processor()} with {_widest()}", psutil.virtual_memory().total
    return {
        "name": name,
        "device": device.type,
        "cores": cores,
        "threads": torch.get_num_threads(),
        "instructions": [one for one in _FEATURES if one in _flags()],
        "memory_gib": round(memory / 2**30, 1),
        "torch": torch.__version__,
    }


def measure_peaks(device: torch.device, precisions: list[str]) -> Peaks:
    """Measure the peaks of a device.

    Args:
        device: the device.
        precisions: ``fp32``, ``bf16`` or ``fp16``.
    """
    gflops = {}
    for precision in precisions:
        dtype = DTYPES.get(precision, torch.float32)
        side = 8192 if device.type == "cuda" else 1024
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        product = 2 * side**3 / _seconds(partial(torch.matmul, a, b), device)
        grid = 64 if device.type == "cuda" else 32
        image = torch.randn(2, 32, grid, grid, grid, device=device).to(dtype)
        image = image.contiguous(memory_format=torch.channels_last_3d)
        weight = torch.randn(32, 32, 3, 3, 3, device=device).to(dtype).contiguous(memory_format=torch.channels_last_3d)
        flops = 2 * 2 * 32 * 32 * 27 * grid**3
        convolution = flops / _seconds(partial(functional.conv3d, image, weight, padding=1), device)
        gflops[precision] = max(product, convolution) / 1e9
    source = torch.ones(2**28 if device.type == "cuda" else 2**26, device=device)
    target = torch.empty_like(source)
    return Peaks(gflops, 2 * source.nbytes / _seconds(lambda: target.copy_(source), device) / 1e9)


def computes_bf16_fast(device: torch.device) -> bool:
    """Return whether bf16 convolutions have instructions here; without, a CPU needs 30 times as long as in fp32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool({"avx512_bf16", "amx_bf16"} & _flags())


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    """Return the duration of the fastest call."""
    best = float("inf")
    for _ in range(2):
        run()
    end = time.perf_counter() + _SECONDS
    while time.perf_counter() < end or best == float("inf"):
        _wait(device)
        started = time.perf_counter()
        run()
        _wait(device)
        best = min(best, time.perf_counter() - started)
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _processor() -> str:
    for line in _cpuinfo():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _widest() -> str:
    """Return the last of the known instruction sets that this processor has; "Xeon" alone says little."""
    return next((one for one in reversed(_FEATURES) if one in _flags()), "no vectors").replace("_", "-").upper()


def _flags() -> set[str]:
    for line in _cpuinfo():
        if line.startswith(("flags", "Features")):
            return set(line.partition(":")[2].split())
    return set()


def _cpuinfo() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.is_file() else []
