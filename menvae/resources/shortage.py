"""Errors of memory: which they are, and what a user can change."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from menvae.errors import OutOfMemoryError

_OF_THE_CPU = "DefaultCPUAllocator: can't allocate memory"
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_USED = ("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory/memory.usage_in_bytes")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory is exhausted; on the CPU, torch raises a `RuntimeError` for it.

    >>> is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."))
    True
    >>> is_out_of_memory(RuntimeError("shapes differ"))
    False
    """
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or _OF_THE_CPU in str(error)


def explained(
    batch_size: int, precision: str, size: tuple[int, ...], *, recomputes: bool, splits: bool, device: torch.device
) -> OutOfMemoryError:
    """Return an error that says what to change in a run that has exhausted the memory.

    Args:
        batch_size: subjects per step.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        size: (D, H, W), or empty for the rows of a table.
        recomputes: whether activations are recomputed already.
        splits: whether batches are split already.
        device: device of the run.
    """
    remedies = []
    if batch_size > 1 and not splits:
        remedies.append("trainer.auto_batch=true (micro-batches, the same results)")
    if size and not recomputes:
        remedies.append("trainer.activation_checkpointing=true (the same results in a third more time)")
    if precision == "fp32" and device.type == "cuda":
        remedies.append("trainer.precision=bf16")
    if batch_size > 1:
        remedies.append(f"trainer.batch_size={batch_size // 2}")
    if size:
        smaller = [max(16, side * 3 // 4 // 16 * 16) for side in size]
        remedies.append(f"a smaller box, such as data.roi_size={smaller}")
    where = f"box {list(size)} with " if size else ""
    advice = "; try, in this order, " + ", ".join(remedies) if remedies else ""
    return OutOfMemoryError(f"out of memory: {where}trainer.batch_size={batch_size} does not fit on {device}{advice}")


def available_bytes() -> int:
    """Return how much memory this process may still use: what the machine or its container has left."""
    import psutil

    free = int(psutil.virtual_memory().available)
    for limit, used in zip(_LIMITS, _USED, strict=True):
        text = _read(limit)
        if text.isdigit() and _read(used).isdigit():
            free = min(free, int(text) - int(_read(used)))
    return max(0, free // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
