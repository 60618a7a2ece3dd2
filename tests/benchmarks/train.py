"""What training costs, as a whole: runs the benchmarks of steps, starts, sweeps, memory and estimates one by one.

Prints what they print, and writes it with date, machine and versions into ``tests/benchmarks/results/``. The exit
status is 1 if a claim of one of them does not hold; the others run all the same.

    python tests/benchmarks/train.py --beside ../of-last-month
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import torch

from menvae.resources.machine import describe_machine

HERE = Path(__file__).resolve().parent
BESIDE_ANOTHER = ("step", "starting", "packing")
ALONE = ("tabular", "loading_memory", "resources", "on_gpu")


def header() -> str:
    """Return date, machine and versions."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    described = ", ".join(f"{key} {value}" for key, value in describe_machine(device).items())
    return f"{datetime.now(UTC).date()}: {described}, Python {platform.python_version()}\n"


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
