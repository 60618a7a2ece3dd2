"""Memory of the C library on a CPU: kept between steps, which allocate the same sizes again and again."""

from __future__ import annotations

import ctypes
import platform
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Parameters of ``mallopt`` (malloc.h of glibc)."""


def keep_freed_memory() -> bool:
    """Let freed memory stay with this process until it ends, and return whether it will.

    The allocator of glibc maps every large block anew and returns it to the system when it is freed. A step that frees
    its activations and the next that allocates them again then pay for a page fault every 4 kB: a tenth of the time of
    a step of Run 6 at 64^3. The heap is up to a tenth larger, as blocks that torch aligns leave holes in it. Other C
    libraries are left as they are.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_TRIM_THRESHOLD, -1) and mallopt(_MMAP_MAX, 0))
