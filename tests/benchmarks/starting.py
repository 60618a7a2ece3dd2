"""How long commands take to start: this checkout against another one, A B A B.

``menvae-train --help``, the completion of a group and of a key, the first help and completion (nothing is kept yet),
``menvae-train`` of a finished run, ``menvae-sweep plan loss.lambda_dcor=0,1,5,10`` with an empty cache and with a
prepared cohort, ``menvae-train`` until its first optimiser step is done, and a whole run of one epoch of a prepared
cohort. Printed are medians of the time on the clock, on a machine that does nothing else, and the ratio B / A.
Importing Hydra and torch alone is printed too: the first help is at least the former, and a first step the latter.

    python tests/benchmarks/starting.py --beside ../of-last-month
    python tests/benchmarks/starting.py --subjects 960        # the default cohort
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from interleaved import Claim, at_least, at_most, judged, noted

HERE = Path(__file__).resolve().parents[2]
PLAN = "import sys; from menvae.apps.sweep import main; sys.argv[1:1] = ['plan']; main()"
TRAIN = "from menvae.apps.train import main; main()"
COMPLETED = {"completion, group": "menvae-train encoder=", "completion, key": "menvae-train model.z"}
OF_HYDRA = ("help", *COMPLETED)
SHORT = ["trainer.max_epochs=1"]
FIRST = ("help, first", "completion, first")
NAMES = (*OF_HYDRA, *FIRST, "finished run", "plan, cold", "plan, warm", "first step")
MOST_OF_HYDRA, FINISHED_SECONDS, LEAST_OF_FIRST_STEP, LARGEST_SHARE_OUTSIDE = 1.5, 2.0, 2.0, 0.5
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


def seconds(checkout: Path, program: str, arguments: Sequence[str], **environment: str) -> float:
    paths = os.pathsep.join([str(checkout), str(checkout / "launchers")])
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, "PYTHONPATH": paths, **environment},
        cwd=tempfile.gettempdir(),  # which python -c puts before the checkout
        check=True,
        capture_output=True,
    )
    return time.perf_counter() - start


def completion(checkout: Path, line: str, **environment: str) -> float:
    asked = {"COMP_LINE": line, "COMP_POINT": str(len(line))}
    return seconds(checkout, TRAIN, ["-sc", "query=bash"], **asked, **environment)


def measured(name: str, checkout: Path, warm: Path, cohort: Sequence[str]) -> float:
    swept = "loss.lambda_dcor=0,1,5,10"
    if name == "help":
        return seconds(checkout, TRAIN, ["--help"])
    if name in COMPLETED:
        return completion(checkout, COMPLETED[name])
    if name == "finished run":
        return seconds(checkout, TRAIN, [*cohort, *SHORT, f"output_dir={warm}"])
    with tempfile.TemporaryDirectory() as folder:
        if name == "help, first":
            return seconds(checkout, TRAIN, ["--help"], XDG_CACHE_HOME=folder)
        if name == "completion, first":
            return completion(checkout, COMPLETED["completion, key"], XDG_CACHE_HOME=folder)
        if name == "plan, cold":
            return seconds(checkout, PLAN, [swept, *cohort, f"output_dir={folder}"])
        if name == "plan, warm":
            return seconds(checkout, PLAN, [swept, *cohort, f"output_dir={warm}"])
        (Path(folder) / "cache").symlink_to(warm / "cache")  # runs are new, the cohort is not
        return seconds(checkout, FIRST_STEP, [*cohort, f"output_dir={folder}"])


def shares_outside(warm: Path, cohort: Sequence[str], repeats: int) -> dict[str, float]:
    """Return the median shares of a run of one epoch outside of its training steps, and of its validation too."""
    found: dict[str, list[float]] = {"training": [], "training and validation": []}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "cache").symlink_to(warm / "cache")
            took = seconds(HERE, TRAIN, [*cohort, *SHORT, f"output_dir={folder}"])
            (log,) = Path(folder).glob("runs/*/timings.jsonl")
            (epoch,) = map(json.loads, log.read_text().splitlines())
        inside = epoch["time/train_s"] + epoch["time/validate_s"]
        found["training"].append(1.0 - epoch["time/train_s"] / took)
        found["training and validation"].append(1.0 - inside / took)
        print(f"one epoch         A {took:6.2f} s, of it {inside:.2f} s training and validation", flush=True)
    return {name: statistics.median(shares) for name, shares in found.items()}


def claims_of(medians: dict[str, list[float]], import_hydra: float) -> list[Claim]:
    """Return what is claimed of the medians of this checkout, and of the other one if there is one."""
    claims = [
        at_most(f"{name}, this / import hydra", medians[name][0] / import_hydra, MOST_OF_HYDRA) for name in OF_HYDRA
    ]
    for name in FIRST:
        noted(f"{name} / import hydra", medians[name][0] / import_hydra)
    claims.append(at_most("finished run, seconds", medians["finished run"][0], FINISHED_SECONDS))
    here, *beside = medians["first step"]
    return [*claims, *(at_least("first step, beside / this", other / here, LEAST_OF_FIRST_STEP) for other in beside)]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--beside", type=Path, help="another checkout, B; without one, this is measured alone")
    parser.add_argument("--repeats", type=int, default=3, help="pairs")
    parser.add_argument("--output-dir", type=Path, help="holds a prepared default cohort; without one it is drawn")
    parser.add_argument("--subjects", type=int, default=120, help="size of the cohort")
    options = parser.parse_args()
    cohort = [f"data.num_subjects={options.subjects}"]
    checkouts = [HERE, *([options.beside.resolve()] if options.beside else [])]
    with tempfile.TemporaryDirectory() as folder:
        warm = (options.output_dir or Path(folder)).resolve()
        for checkout in checkouts:
            seconds(checkout, TRAIN, [*cohort, *SHORT, f"output_dir={warm}"])  # the second only reports the run
            seconds(checkout, TRAIN, ["--help"])
            for line in COMPLETED.values():
                completion(checkout, line)  # later ones are answered from what these keep
        print(f"import torch   {statistics.median(seconds(HERE, 'import torch', []) for _ in range(3)):6.2f} s")
        medians: dict[str, list[float]] = {}
        imports = []
        for name in NAMES:
            times: list[list[float]] = [[] for _ in checkouts]
            for _ in range(1 if name == "plan, cold" else options.repeats):  # one that draws the cohort takes minutes
                if name in OF_HYDRA:
                    imports.append(seconds(HERE, "import hydra", []))
                for checkout, found in zip(checkouts, times, strict=True):
                    found.append(measured(name, checkout, warm, cohort))
            medians[name] = [statistics.median(found) for found in times]
            columns = "   ".join(f"{'AB'[i]} {value:6.2f} s" for i, value in enumerate(medians[name]))
            ratio = f"   B / A {medians[name][1] / medians[name][0]:.2f}" if len(checkouts) > 1 else ""
            print(f"{name:17} {columns}{ratio}", flush=True)
        print(f"import hydra   {statistics.median(imports):6.2f} s")
        outside = shares_outside(warm, cohort, options.repeats)
    noted("a run of one epoch, outside training / all", outside["training"])
    of_epoch = at_most(
        "a run of one epoch, outside training and validation / all",
        outside["training and validation"],
        LARGEST_SHARE_OUTSIDE,
    )
    return judged([*claims_of(medians, statistics.median(imports)), of_epoch])


if __name__ == "__main__":
    sys.exit(main())
