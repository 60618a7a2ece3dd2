"""Resident memory of this process."""

from __future__ import annotations

import resource
from pathlib import Path

_STATUS = Path("/proc/self/status")


def peak_resident_bytes() -> int:
    """Return the largest resident memory of this process so far.

    On Linux, ``ru_maxrss`` survives `exec`: a small process that a large one has started reports the size of the large
    one. The kernel's ``VmHWM`` belongs to the memory of this program alone.
    """
    if _STATUS.is_file():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
