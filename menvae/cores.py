"""Number of CPU cores available to this process."""

from __future__ import annotations

import os
import sys


def num_cores() -> int:
    """Return how many cores this process may use: a SLURM job often gets only some of the node's cores."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
