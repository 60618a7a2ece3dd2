"""What training costs, as a whole: runs the benchmarks of steps, starts, sweeps, memory and estimates one by one.

Prints what they print, and writes it with date, machine and versions into ``tests/benchmarks/results/``. The exit
status is 1 if a claim of one of them does not hold; the others run all the same.

    python tests/benchmarks/train.py --beside ../of-last-month
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
BESIDE_ANOTHER = ("step", "starting", "packing")
ALONE = ("tabular", "loading_memory", "resources", "on_gpu")


def header() -> str:
    """Return date, processor, GPU and versions."""
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU"
    cores = len(os.sched_getaffinity(0))
    return (
        f"{datetime.now(UTC).date()}: {processor()} ({torch.backends.cpu.get_cpu_capability()}, {cores} cores), {gpu}, "
        f"torch {torch.__version__}, Python {platform.python_version()}\n"
    )


def processor() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def main() -> int:
    """Run them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beside", type=Path, help="another checkout, for the benchmarks that compare two")
    parser.add_argument("--only", nargs="+", choices=(*BESIDE_ANOTHER, *ALONE), default=(*BESIDE_ANOTHER, *ALONE))
    options = parser.parse_args()
    written, failed = [header()], []
    for name in options.only:
        beside = ["--beside", str(options.beside)] if options.beside and name in BESIDE_ANOTHER else []
        written.append(f"\n{name}.py {'--beside ...' if beside else ''}\n")
        print(written[-1], end="", flush=True)
        command = [sys.executable, str(HERE / f"{name}.py"), *beside]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                written.append(line)
                print(line, end="", flush=True)
        if process.returncode:
            failed.append(name)
    results = HERE / "results" / f"{datetime.now(UTC).date()}-train.txt"
    results.parent.mkdir(exist_ok=True)
    results.write_text("".join(written))
    print(f"\nwritten to {results.name}; {', '.join(failed) or 'nothing'} failed")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
