"""What a look at a sweep costs while it runs: the first one beside those that follow.

Points are written through menvae's own code. Most have finished; the others run, and their logs grow by an epoch
between two looks. Printed are the seconds of the first look, the median of the later ones, the files that they open,
and the ratio first / later: how much more it would cost to read everything each time.

    python tests/benchmarks/watching.py
    python tests/benchmarks/watching.py --points 10000 --running 256 --looks 5
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from menvae.files import FolderLock
from menvae.runs.directory import RunDirectory
from menvae.sweeps.sweep import Point, Sweep
from menvae.sweeps.watch.snapshot import Watcher
from menvae.tracking.local import LocalLog

EPOCHS = 30
METRICS = {f"val_epoch/metric_{number}": 0.123456789 for number in range(60)}
TIMINGS = {"time/train_s": 2.5, "time/validate_s": 0.5, "system/cpu_percent": 100.0}

opened = 0


def count(event: str, _: tuple[Any, ...]) -> None:
    global opened
    opened += event == "open"


def write(sweep: Sweep, num: int, num_running: int) -> tuple[list[LocalLog], list[FolderLock]]:
    """Write points; return the logs of those that run, and their locks."""
    logs, locks = [], []
    trainer = {"max_epochs": EPOCHS, "resume": "auto"}
    for number in range(num):
        runs = number >= num - num_running
        point = Point(number, f"run_{number:06d}", (f"seed={number}",))
        sweep.prepare(point, {"trainer": trainer, "sweep": {"objectives": {"val_epoch/metric_0": "minimize"}}})
        run_dir = sweep.runs / point.run
        log = LocalLog(run_dir)
        for epoch in (1, 2) if runs else (1,):  # few, because each is flushed to the disk
            log.append(epoch, METRICS, TIMINGS)
        directory = RunDirectory(run_dir)
        (run_dir / "environment.json").write_text('{"device": "cpu", "num_ranks": 1, "num_threads": 1}')
        (run_dir / "gates.json").write_text('{"gates": [], "passed": false}')
        directory.set_status("running" if runs else "finished", best_epoch=1)
        directory.release()
        if runs:
            logs.append(log)
            locks.append(FolderLock(run_dir))
    return logs, locks


def look(watcher: Watcher) -> tuple[float, int]:
    before, begun = opened, time.perf_counter()
    watcher.look()
    return time.perf_counter() - begun, opened - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("--running", type=int, default=32)
    parser.add_argument("--looks", type=int, default=10)
    arguments = parser.parse_args()
    sys.addaudithook(count)
    with tempfile.TemporaryDirectory() as folder:
        sweep = Sweep(Path(folder) / "sweeps" / "a_sweep")
        sweep.describe([], [])
        logs, locks = write(sweep, arguments.points, arguments.running)
        watcher = Watcher(sweep)
        first_s, first_files = look(watcher)
        later = []
        for number in range(arguments.looks):
            for log in logs:
                log.append(3 + number, METRICS, TIMINGS)
            later.append(look(watcher))
        for lock in locks:
            lock.release()
    later_s = statistics.median(seconds for seconds, _ in later)
    later_files = statistics.median(files for _, files in later)
    print(f"{arguments.points} points, {arguments.running} of them running, {len(later)} looks after the first")
    print(f"first look {first_s:.3f} s and {first_files} files, later {later_s:.4f} s and {later_files:.0f} files")
    print(f"first / later: {first_s / later_s:.1f}")


if __name__ == "__main__":
    main()
