"""How long commands take to start: this checkout against another one, A B A B.

Three starts: ``menvae-sweep plan loss.lambda_dcor=0,1,5,10`` with an empty cache and with a prepared cohort, and
``menvae-train`` until its first optimiser step is done. Printed are medians of the time on the clock, on a machine
that does nothing else, and the ratio B / A. Importing torch alone is printed too: no start is faster.

    python tests/benchmarks/starting.py --beside ../of-last-month
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]
PLAN = "import sys; from menvae.apps.sweep import main; sys.argv[1:1] = ['plan']; main()"
FIRST_STEP = """
import os
from menvae.training.trainer import Trainer

step = Trainer._train_step


def first(self, *arguments):
    step(self, *arguments)
    os._exit(0)


Trainer._train_step = first
from menvae.apps.train import main

main()
"""


def seconds(checkout: Path, program: str, arguments: Sequence[str]) -> float:
    paths = os.pathsep.join([str(checkout), str(checkout / "launchers")])
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, "PYTHONPATH": paths},
        cwd=tempfile.gettempdir(),  # which python -c puts before the checkout
        check=True,
        capture_output=True,
    )
    return time.perf_counter() - start


def measured(name: str, checkout: Path, warm: Path) -> float:
    swept = "loss.lambda_dcor=0,1,5,10"
    with tempfile.TemporaryDirectory() as folder:
        if name == "plan, cold":
            return seconds(checkout, PLAN, [swept, f"output_dir={folder}"])
        if name == "plan, warm":
            return seconds(checkout, PLAN, [swept, f"output_dir={warm}"])
        (Path(folder) / "cache").symlink_to(warm / "cache")  # runs are new, the cohort is not
        return seconds(checkout, FIRST_STEP, [f"output_dir={folder}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--beside", type=Path, help="another checkout, B; without one, this is measured alone")
    parser.add_argument("--repeats", type=int, default=3, help="pairs")
    parser.add_argument("--output-dir", type=Path, help="holds a prepared default cohort; without one it is drawn")
    options = parser.parse_args()
    checkouts = [HERE, *([options.beside.resolve()] if options.beside else [])]
    with tempfile.TemporaryDirectory() as folder:
        warm = (options.output_dir or Path(folder)).resolve()
        seconds(HERE, PLAN, ["loss.lambda_dcor=0,1", "sweep.cost=true", f"output_dir={warm}"])
        print(f"import torch   {statistics.median(seconds(HERE, 'import torch', []) for _ in range(3)):6.2f} s")
        for name in ("plan, cold", "plan, warm", "first step"):
            times: list[list[float]] = [[] for _ in checkouts]
            for _ in range(1 if name == "plan, cold" else options.repeats):  # one that draws the cohort takes minutes
                for checkout, found in zip(checkouts, times, strict=True):
                    found.append(measured(name, checkout, warm))
            medians = [statistics.median(found) for found in times]
            ratio = f"   B / A {medians[1] / medians[0]:.2f}" if len(medians) > 1 else ""
            print(f"{name:11} " + "   ".join(f"{'AB'[i]} {value:6.2f} s" for i, value in enumerate(medians)) + ratio)


if __name__ == "__main__":
    main()
