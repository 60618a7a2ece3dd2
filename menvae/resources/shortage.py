"""Errors of memory: which they are, and what a user can change."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from menvae.errors import OutOfMemoryError

_OF_THE_CPU = "DefaultCPUAllocator: can't allocate memory"
_CGROUPS = Path("/sys/fs/cgroup")
_VERSION_2 = ("memory.max", "memory.current", "inactive_file")
_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
"""File of the limit, file of what is used, and the key in ``memory.stat`` of cached files, which are freed first."""


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
    """Return how much memory this process may still use: what the machine or its control groups have left."""
    import psutil

    free = min([int(psutil.virtual_memory().available), *left_in_cgroups(_read(Path("/proc/self/cgroup")), _CGROUPS)])
    return max(0, free // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def left_in_cgroups(membership: str, root: Path) -> list[int]:
    """Return the bytes that each control group of a process has left, from its own up to the root.

    SLURM limits the group of a job, a container its root. Files that the group has read count as used, but those that
    are inactive are freed when memory is needed.

    Args:
        membership: content of ``/proc/self/cgroup``.
        root: where control groups are mounted, version 1 or 2.
    """
    left = []
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mounted, names = root, _VERSION_2
        elif "memory" in controllers.split(","):
            mounted, names = root / "memory", _VERSION_1
        else:
            continue
        group = mounted / path.lstrip("/")
        left += [_left(one, *names) for one in (group, *group.parents) if one.is_relative_to(mounted)]
    return [one for one in left if one is not None]


def _left(group: Path, limit: str, used: str, inactive: str) -> int | None:
    """Return the bytes that one control group has left, or None without a limit."""
    most, now = _read(group / limit), _read(group / used)
    if not (most.isdigit() and now.isdigit()):
        return None
    fields = [line.split() for line in _read(group / "memory.stat").splitlines()]
    cached = sum(int(words[1]) for words in fields if words[0] == inactive)
    return int(most) - max(0, int(now) - cached)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
