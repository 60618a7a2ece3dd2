"""Peak memory of a process, beside what its allocations and its parent add up to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from menvae.resources.resident import peak_resident_bytes

MIB = 2**20
ROOT = Path(__file__).resolve().parents[2]
CHILD = """
import runpy
print(runpy.run_path("menvae/resources/resident.py")["peak_resident_bytes"]())
"""


def test_counts_what_was_freed() -> None:
    before = peak_resident_bytes()
    torch.ones(300 * MIB // 4)
    torch.ones(1)
    assert peak_resident_bytes() >= max(before, 300 * MIB)


def test_a_small_process_of_a_large_one_is_small() -> None:
    ballast = torch.ones(400 * MIB // 4)
    said = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert int(said) < 100 * MIB
    del ballast
