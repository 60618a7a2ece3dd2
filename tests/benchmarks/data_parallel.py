"""Two processes of one thread each, beside one process of two threads with a batch twice as large, A B A B.

Run 6 at 64^3 (1 + 1 beside 2) and the default model at 32^3 (4 + 4 beside 8) on a CPU. Each turn assembles a run as
``menvae-train trainer.devices=2`` or ``menvae-train`` does, ranks and their process group included, and takes the time
of the steps of its first epoch, loading included, but for the first two. Both variants see the same batches, whose
preparation is not timed. Printed are the medians over all turns; on two quiet cores, the ratio says what gathering rows
and gradients costs, and what a second thread is worth.

    python tests/benchmarks/data_parallel.py
    python tests/benchmarks/data_parallel.py --cases default --steps 3 --turns 1
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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from unittest.mock import patch

from interleaved import noted
from step import RUN_6

sys.path.insert(0, str(Path(__file__).parents[1]))

WARM_UP_STEPS = 2
NUM_PROCESSES = 2
VARIANTS = {"one process, two threads": 1, "two processes, one thread each": NUM_PROCESSES}
"""Name -> number of processes."""


@dataclass(frozen=True)
class Case:
    """What is trained, and the rows of a batch over all processes."""

    overrides: tuple[str, ...]
    num_rows: int


CASES = {"run 6": Case(RUN_6, 2), "default": Case((), 8)}


class Stopwatch:
    """Takes the time from one batch to the next (see `menvae.training.trainer.Watcher`)."""

    def __init__(self) -> None:
        self.begun: list[float] = []

    def watched(self, batches: Iterable[object]) -> Iterator[object]:
        for batch in batches:
            self.begun.append(time.perf_counter())
            yield batch
        self.begun.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """Return the seconds of each step after the first two."""
        return [after - before for before, after in pairwise(self.begun)][WARM_UP_STEPS:]


def overrides_of(case: Case, num_processes: int, steps: int, output_dir: Path) -> list[str]:
    """Return what configures one of the processes; the cohort suffices for the steps that are timed."""
    num_training = case.num_rows * (steps + WARM_UP_STEPS)
    num_subjects = num_training + 2
    cohort = [f"data.num_subjects={num_subjects}", f"data.val_fraction={2 / num_subjects}", "data.test_fraction=0"]
    return [
        *case.overrides,
        *cohort,
        f"trainer.batch_size={case.num_rows // num_processes}",
        f"output_dir={output_dir}",
    ]


def worker(overrides: list[str], num_processes: int, answer: Path) -> None:
    """Train the first epoch as one of the processes; the main one writes the seconds of each step."""
    import torch
    from shrunk import composed

    from menvae.composition.experiment import Experiment
    from menvae.console import logs
    from menvae.interruption import StopRequest
    from menvae.runs.assembly import AssembledRun
    from menvae.training.allocation import keep_freed_memory
    from menvae.training.determinism import make_deterministic
    from menvae.training.place import place

    with place(num_processes) as here, tempfile.TemporaryDirectory() as folder, logs.only_errors():
        make_deterministic(here.device)
        keep_freed_memory()
        experiment = Experiment.from_config(composed(*overrides))
        trainer = AssembledRun(experiment, experiment.load_data(here), here, Path(folder), StopRequest()).trainer
        trainer.profiler = stopwatch = Stopwatch()
        trainer._train_epoch(0)
        if here.is_main:
            answer.write_text(json.dumps({"threads": torch.get_num_threads(), "seconds": stopwatch.seconds()}))


def turn(case: Case, num_processes: int, steps: int, output_dir: Path) -> list[float]:
    """Return the seconds of each step of one variant."""
    from menvae.training.ranks import run_ranks

    answer = output_dir / "answer.json"
    answer.unlink(missing_ok=True)
    overrides = overrides_of(case, num_processes, steps, output_dir)
    command = [sys.executable, __file__, "--worker", str(num_processes), str(answer), *overrides]
    num_threads = NUM_PROCESSES // num_processes
    with patch.dict(os.environ, OMP_NUM_THREADS=str(num_threads), CUDA_VISIBLE_DEVICES=""):
        if num_processes == 1:
            code = subprocess.run(command, check=False).returncode
        else:
            code = run_ranks(command, num_processes)
    if code:
        sys.exit(f"{num_processes} processes ended with exit code {code}")
    found = json.loads(answer.read_text())
    assert found["threads"] == num_threads
    return [float(seconds) for seconds in found["seconds"]]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--steps", type=int, default=6, help="steps that are timed in each turn")
    parser.add_argument("--turns", type=int, default=3, help="of each variant")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        num_processes, answer, *overrides = options.worker
        worker(overrides, int(num_processes), Path(answer))
        return 0
    for name in options.cases:
        case, found = CASES[name], {variant: [] for variant in VARIANTS}
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(options.turns):
                for variant, num_processes in VARIANTS.items():
                    found[variant] += turn(case, num_processes, options.steps, Path(folder))
        medians = {variant: statistics.median(seconds) for variant, seconds in found.items()}
        for variant, seconds in medians.items():
            print(f"{name}, batch {case.num_rows}: {variant:32}{1 / seconds:7.3f} steps a second")
        one, two = medians.values()
        noted(f"{name}, steps a second, two processes / one", one / two)
    return 0


if __name__ == "__main__":
    sys.exit(main())
