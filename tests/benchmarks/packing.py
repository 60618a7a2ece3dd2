"""Points an hour of a sweep whose points share the cores (or one GPU), after and before packing.

"After" is this checkout with ``hydra.launcher.points_per_gpu``. "Before" runs as many points at a time, each in a
process that starts alone: with ``--beside``, in another checkout, without it, in this one. Three figures, the first two
of whole ``menvae-train -m`` commands from their start to their end, launching included:

- tabular: a sweep of 100 points of ``experiment=lithology_vae``. Before, each point costs the same, so that 20 of them
  suffice for the rate: the time of 100 is extrapolated, and the start of the command, a few seconds, counts five times;
- image: 16 points (before: 8) of the default experiment, whose box is 32^3, with one epoch of a prepared cohort of 120
  subjects, where starting counts most;
- memory: of eight points that share a machine together with the process that forks them, at their peak, beside that of
  one run alone with its workers: the sum of their proportional sets of anonymous pages (``/proc/PID/smaps_rollup``),
  which counts a page that forked processes share once, and the file-backed pages of the largest, which neighbours map
  too.

    python tests/benchmarks/packing.py --beside ../of-last-month --json packing.json
    CUDA_VISIBLE_DEVICES= taskset -c 0,1 python tests/benchmarks/packing.py --beside ... --only tabular  # two cores
    python tests/benchmarks/packing.py --points-before 100 --only tabular                    # nothing extrapolated
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interleaved import Claim, at_least, at_most, judged

HERE = Path(__file__).resolve().parents[2]
TRAIN = "from menvae.apps.train import main; main()"
GOALS = {"cpu": 2.0, "gpu": 8.0}
MEMORY_GOAL = 2.5
SECONDS_BETWEEN_LOOKS = 0.5
POINTS = {"tabular": (100, 20), "image": (16, 8)}
"""Points after and before packing, unless options say otherwise."""
TABULAR = ["experiment=lithology_vae"]
IMAGE = ["data.num_subjects=120", "trainer.max_epochs=1"]


@dataclass
class Measured:
    """How long a command took, in seconds, and the peak memory of its points, in MB."""

    seconds: float
    megabytes: float


def run(checkout: Path, arguments: Sequence[str], looks: bool = False) -> Measured:
    paths = os.pathsep.join([str(checkout), str(checkout / "launchers"), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryFile("w+") as output:
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-c", TRAIN, *arguments],
            env={**os.environ, "PYTHONPATH": paths},
            cwd=tempfile.gettempdir(),  # which python -c puts before the checkout
            stdout=output,
            stderr=output,
        )
        peak = 0.0
        while process.poll() is None:
            if looks:
                peak = max(peak, megabytes(process.pid, launches="-m" in arguments))
            time.sleep(SECONDS_BETWEEN_LOOKS)
        seconds = time.perf_counter() - start
        if process.returncode:
            output.seek(0)
            sys.exit(output.read()[-4000:])
    return Measured(seconds, peak)


def megabytes(process: int, launches: bool) -> float:
    """Return the memory of a process and its descendants, without the process itself if it only launches them."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
        children.setdefault(parent, []).append(int(path.parent.name))
    found, todo = [] if launches else [process], list(children.get(process, []))
    while todo:
        found.append(todo.pop())
        todo += children.get(found[-1], [])
    sets = [_sets(one) for one in found]
    together = sum(one.get("Pss_Anon", 0.0) for one in sets) + max(
        (one.get("Rss", 0.0) - one.get("Anonymous", 0.0) for one in sets), default=0.0
    )
    return together if launches else max(together, _sets(process, "status").get("VmHWM", 0.0))


def _sets(process: int, file: str = "smaps_rollup") -> dict[str, float]:
    """Return the sizes in a file of ``/proc/PID``, in MB; empty if the process has ended."""
    try:
        lines = [line.split() for line in Path(f"/proc/{process}/{file}").read_text().splitlines()]
    except OSError:
        return {}
    return {line[0].rstrip(":"): int(line[1]) / 1024 for line in lines if line[-1:] == ["kB"]}


def sweep(checkout: Path, arguments: Sequence[str], cache: Path | None, looks: bool = False) -> Measured:
    with tempfile.TemporaryDirectory() as folder:
        if cache is not None:
            (Path(folder) / "cache").symlink_to(cache)
        return run(checkout, [*arguments, f"output_dir={folder}"], looks)


def rates(name: str, arguments: Sequence[str], cache: Path | None, options: argparse.Namespace) -> dict[str, float]:
    """Measure the points an hour after and before."""
    num_after, num_before = (
        given or default for given, default in zip((options.points, options.points_before), POINTS[name], strict=True)
    )
    found: dict[str, float] = {}
    for label, checkout, num, key in (
        ("after", HERE, num_after, "points_per_gpu"),
        ("before", options.beside or HERE, num_before, options.key_before),
    ):
        launcher = [f"hydra.launcher.{key}={options.together}"] if key else []
        took = sweep(checkout.resolve(), ["-m", *arguments, f"seed=range(0,{num})", *launcher], cache)
        found |= {label: 3600 * num / took.seconds, f"{label}, points": num, f"{label}, seconds": took.seconds}
        line = f"{name:8} {label:7}{num:4} points in {took.seconds:7.1f} s: {found[label]:5.0f} points an hour"
        if num < num_after:
            line += f"; extrapolated, {num_after} points take {3600 * num_after / found[label]:.0f} s"
        print(line, flush=True)
    found["ratio"] = found["after"] / found["before"]
    return found


def memory(arguments: Sequence[str], cache: Path | None) -> dict[str, float]:
    """Measure eight points together, and one alone."""
    alone = sweep(HERE, [*arguments, "seed=1"], cache, looks=True).megabytes
    eight = ["-m", *arguments, "seed=range(0,8)", "hydra.launcher.points_per_gpu=8"]
    together = sweep(HERE, eight, cache, looks=True).megabytes
    return {"alone_mb": alone, "eight_mb": together, "ratio": together / alone}


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def main() -> int:
    """Measure and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beside", type=Path, help="another checkout, for before; default: this one, unpacked")
    parser.add_argument("--points", type=int, help="after; default: 100 tabular, 16 image")
    parser.add_argument("--points-before", type=int, help="before; default: 20 tabular, 8 image")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--together", type=int, default=cores, help="points at a time; default: one per core")
    parser.add_argument("--key-before", default="num_parallel", help="key for that before; empty: none, one at a time")
    parser.add_argument("--only", choices=("tabular", "image", "memory"), help="default: all three")
    parser.add_argument("--override", action="append", default=[], help="of every point, such as trainer.max_epochs=1")
    parser.add_argument("--json", type=Path, help="write the figures into this file")
    options = parser.parse_args()
    chosen = {options.only} if options.only else {"tabular", "image", "memory"}
    goal = GOALS["gpu" if has_gpu() else "cpu"]
    figures: dict[str, Any] = {"machine": platform.platform(), "cores": cores, "together": options.together}
    figures |= {"overrides": options.override, "beside": str(options.beside or "this checkout, unpacked")}
    claims: list[Claim] = []
    if "tabular" in chosen:
        figures["tabular"] = rates("tabular", [*TABULAR, *options.override], None, options)
        claims.append(at_least("tabular, points an hour, after / before", figures["tabular"]["ratio"], goal))
    with tempfile.TemporaryDirectory() as folder:
        cache, image = Path(folder) / "cache", [*IMAGE, *options.override]
        if chosen & {"image", "memory"}:
            run(HERE, ["-m", *image, "sweep.action=plan", "sweep.cost=true", "seed=0,1", f"output_dir={folder}"])
        if "image" in chosen:
            figures["image"] = rates("image", image, cache, options)
            claims.append(at_least("image, points an hour, after / before", figures["image"]["ratio"], goal))
        if "memory" in chosen:
            tabular = [*TABULAR, "trainer.max_epochs=2"]
            for name, arguments, where in (("image", image, cache), ("tabular", tabular, None)):
                found = figures[f"memory, {name}"] = memory(arguments, where)
                print(f"memory   {name}: one {found['alone_mb']:.0f} MB, eight {found['eight_mb']:.0f} MB", flush=True)
                claims.append(at_most(f"{name}, memory of eight points / one", found["ratio"], MEMORY_GOAL))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return judged(claims)


if __name__ == "__main__":
    sys.exit(main())
