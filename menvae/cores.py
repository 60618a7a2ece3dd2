"""How many cores there are for this process."""

from __future__ import annotations

import os
import sys


def num_cores() -> int:
    """Return how many cores this process may use: a job of SLURM is often given some of the node's only."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
