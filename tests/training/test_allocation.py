"""Freed memory stays with the process, which faults no page of it again."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import torch
from menvae.training.allocation import keep_freed_memory

kept = keep_freed_memory() if sys.argv[1] == "keep" else None


def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**26)  # 256 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


first, second = faults(), faults()
print(kept, first, second)
"""


def _faults(mode: str) -> tuple[str, int, int]:
    command = [sys.executable, "-c", PROGRAM, mode]
    kept, first, second = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return kept, int(first), int(second)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_a_second_allocation_faults_no_page():
    kept, first, second = _faults("keep")
    assert kept == "True"
    assert first > 100  # huge pages have 2 MB: 128 of them
    assert second < first / 10
    assert _faults("leave")[2] > first / 2  # what glibc does
