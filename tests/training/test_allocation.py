"""Freed memory stays with the process, which faults few pages of it again."""

import json
import subprocess
import sys

import pytest

PROGRAM = """
import json, resource, sys
import torch
from menvae.training.allocation import keep_freed_memory

kept = keep_freed_memory() if sys.argv[1] == "keep" else None


def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(size * 2**18) for size in (40, 48, 56, 64)]  # MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


print(json.dumps({"kept": kept, "faults": [faults() for _ in range(10)]}))
"""


def _faults(mode: str) -> list[int]:
    command = [sys.executable, "-c", PROGRAM, mode]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert found["kept"] is (True if mode == "keep" else None)
    return found["faults"]


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_repeated_allocations_fault_few_pages():
    kept, left = _faults("keep"), _faults("leave")
    assert min(left) > 50  # huge pages have 2 MB: 104 of them
    assert sum(kept) < sum(left) / 2  # aligned blocks may leave holes for a round or two
