"""What total correlation costs at d = 128, forward and backward: by broadcasting, and as menvae computes it.

- broadcast: `log_densities_by_broadcasting`, the definition, M x M x d numbers at once
- menvae: `log_densities`, a few dimensions at a time with a gradient in closed form; for small batches the definition

Times are process-CPU milliseconds of one thread, the two interleaved. Memory is what a process of its own needs at its
peak beyond what it needed before (VmHWM of Linux, which is reset first), so that all counts, whoever allocates it; what
torch loads at a first step was loaded by a small one. The exit status is 1 when a wanted ratio is missed, or when
values or gradients differ by more than 1e-4 of the largest.

    python tests/benchmarks/losses_tc.py --repeats 7
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from menvae.statistics.total_correlation import log_densities, log_densities_by_broadcasting, weights

NUM_DIMS = 128
FUNCTIONS = {"broadcast": log_densities_by_broadcasting, "menvae": log_densities}
SIZES = (8, 32, 128, 512)
MOST_RELATIVE_TIME = {32: 1.25}  # of menvae, to broadcast
LEAST_TIMES_FASTER = {512: 4.0}
LEAST_TIMES_SMALLER = {512: 30.0}
MOST_DIFFERENCE = 1e-4


def make_leaves(num_rows: int) -> list[Tensor]:
    """Latents, means and log variances of a batch whose posteriors overlap a little."""
    generator = torch.Generator().manual_seed(0)
    mean, noise, logvar = (torch.randn(num_rows, NUM_DIMS, generator=generator) for _ in range(3))
    logvar = logvar - 2.0
    return [leaf.requires_grad_() for leaf in (mean + torch.exp(0.5 * logvar) * noise, mean, logvar)]


def step(name: str, leaves: list[Tensor]) -> list[Tensor]:
    """The three parts with weights 1, 6 and 1, and their gradients."""
    num_rows = len(leaves[0])
    own, joint, per_dimension = FUNCTIONS[name](*leaves, weights("mws", num_rows, 1000))
    product = per_dimension.sum(dim=1)
    total = ((own - joint) + 6.0 * (joint - product) + product).sum()
    return [total.detach(), *torch.autograd.grad(total, leaves)]


def cpu_ms(name: str, leaves: list[Tensor]) -> float:
    """Process-CPU time of a step."""
    started = time.process_time()
    step(name, leaves)
    return (time.process_time() - started) * 1000.0


def greatest_difference(num_rows: int) -> float:
    """Greatest difference between the two, relative to the largest entry of each tensor."""
    found, expected = (step(name, make_leaves(num_rows)) for name in ("menvae", "broadcast"))
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(found, expected, strict=True))


def peak_mb(name: str, num_rows: int) -> float:
    """Peak memory of a step in a process of its own, beyond what it held before."""
    command = [sys.executable, __file__, "--memory-of", name, str(num_rows)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}  # freed memory is returned
    return float(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)


def measure_memory(name: str, num_rows: int) -> None:
    """Print the peak of a second step in MB."""
    leaves = make_leaves(num_rows)
    step(name, make_leaves(48))
    step("broadcast", make_leaves(8))
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = status_kb("VmRSS")
    step(name, leaves)
    print((status_kb("VmHWM") - before) / 1024.0)


def status_kb(field: str) -> int:
    """A field of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def main() -> int:
    """Measure and judge; 0 when ratios and differences are as wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--memory-of", nargs=2, metavar=("NAME", "ROWS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.memory_of:
        measure_memory(arguments.memory_of[0], int(arguments.memory_of[1]))
        return 0
    claims = []
    print(f"d = {NUM_DIMS}, forward and backward, one thread; medians of {arguments.repeats}")
    for num_rows in SIZES:
        leaves = make_leaves(num_rows)
        found: dict[str, list[float]] = {name: [] for name in FUNCTIONS}
        for name in FUNCTIONS:
            cpu_ms(name, leaves)
        for _ in range(arguments.repeats * (1 if num_rows > 200 else 5)):
            for name in FUNCTIONS:
                found[name].append(cpu_ms(name, leaves))
        ms = {name: statistics.median(values) for name, values in found.items()}
        mb = {name: peak_mb(name, num_rows) for name in FUNCTIONS}
        faster, smaller = ms["broadcast"] / ms["menvae"], mb["broadcast"] / max(mb["menvae"], 1e-3)
        print(
            f"M = {num_rows:<4} broadcast {ms['broadcast']:9.2f} ms {mb['broadcast']:8.1f} MB   "
            f"menvae {ms['menvae']:9.2f} ms {mb['menvae']:8.1f} MB   x {faster:.2f} faster, x {smaller:.1f} smaller"
        )
        difference = greatest_difference(num_rows)
        claims.append((f"M = {num_rows}: the two differ by at most {difference:.1e}", difference <= MOST_DIFFERENCE))
        if num_rows in MOST_RELATIVE_TIME:
            most = MOST_RELATIVE_TIME[num_rows]
            claims.append(
                (f"M = {num_rows}: {1 / faster:.2f} times the time, wanted at most {most}", 1 / faster <= most)
            )
        if num_rows in LEAST_TIMES_FASTER:
            least = LEAST_TIMES_FASTER[num_rows]
            claims.append((f"M = {num_rows}: {faster:.1f} times faster, wanted {least:.0f}", faster >= least))
            least = LEAST_TIMES_SMALLER[num_rows]
            claims.append((f"M = {num_rows}: peak {smaller:.0f} times smaller, wanted {least:.0f}", smaller >= least))
    for words, holds in claims:
        print(f"{'holds' if holds else 'FAILS':<6} {words}")
    return 0 if all(holds for _, holds in claims) else 1


if __name__ == "__main__":
    sys.exit(main())
