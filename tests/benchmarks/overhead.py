"""What tracking and launching cost a job: the same tiny run, interleaved, tracked or not, plain or through a launcher.

A run of one epoch on twelve tiny subjects costs little beside starting Python, so the differences are what a launcher
and MLflow add to every job, however long it trains. SLURM is measured where a cluster answers.

    python tests/benchmarks/overhead.py --repeats 5
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from runs import TRACKED, command, environment, train

VARIANTS = {
    "plain, untracked": (),
    "plain, tracked": (TRACKED,),
    "local launcher, tracked": ("-m", TRACKED),
    "slurm launcher, tracked": ("-m", TRACKED, "hydra/launcher=slurm", "hydra.launcher.poll_s=0.5"),
}


def seconds(output_dir: Path, number: int, overrides: tuple[str, ...]) -> float:
    """Return how long a run that nobody has trained yet takes, process start included."""
    flags = [override for override in overrides if override == "-m"]
    values = [override for override in overrides if override != "-m"]
    started = time.monotonic()
    subprocess.run(
        command(output_dir, *flags, "trainer.max_epochs=1", f"seed={number}", *values),
        env=environment(),
        check=True,
        capture_output=True,
    )
    return time.monotonic() - started


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    variants = dict(VARIANTS)
    if shutil.which("sinfo") is None or subprocess.run(["sinfo"], capture_output=True, check=False).returncode:
        print("no SLURM answers: its launcher is left out", file=sys.stderr)
        del variants["slurm launcher, tracked"]
    found: dict[str, list[float]] = {name: [] for name in variants}
    numbers = itertools.count(1)
    with tempfile.TemporaryDirectory() as folder:
        output_dir = Path(folder)
        train(output_dir, TRACKED, "trainer.max_epochs=1", "seed=0")  # cohort, cache and store are there for all
        for repeat in range(repeats):
            for name, overrides in variants.items():
                found[name].append(seconds(output_dir, next(numbers), overrides))
            print(f"repeat {repeat + 1}/{repeats}", file=sys.stderr, flush=True)
    base = statistics.median(found["plain, untracked"])
    print(f"median of {repeats}, {os.cpu_count()} cores")
    for name, values in found.items():
        median = statistics.median(values)
        spread = f"{min(values):.2f} to {max(values):.2f}"
        print(f"{name:<26}{median:7.2f} s  (+{median - base:5.2f} s, x {median / base:.2f}; {spread})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
