"""Estimates of memory and time against real training processes, for random requests.

Each request is a box of at most 64^3, a batch, a width, an up-sampling, a precision and whether activations are
recomputed. Compared are the peak resident memory of ``menvae-train`` (`VmHWM` after some steps, with data, trackers
and all that a run imports) and the duration of a step with what ``menvae-plan-resources`` says of them: of an option
that it chooses, from steps of this option without its data (goals: memory within 10 %, time within 15 %); of others,
from traced and a few calibrated steps (no goals). Times mean something only on a machine that does nothing else.

    python tests/benchmarks/resources.py --requests 20
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import torch
from interleaved import at_least, judged, noted
from omegaconf import OmegaConf

sys.path.insert(0, str(Path(__file__).parents[1]))

from shrunk import composed

from menvae.capacity.calibration import calibrate, needs
from menvae.capacity.estimate import Estimator
from menvae.capacity.plan import sizes_of_split
from menvae.capacity.variants import variant
from menvae.console import logs
from menvae.training.place import Place

HERE = Path(__file__).resolve().parents[2]
STEPS = 6
RUN = f"""
import json, os, sys, time
from menvae.resources.resident import peak_resident_bytes
from menvae.training.trainer import Trainer

step, durations, answer = Trainer._train_step, [], sys.argv.pop(1)


def timed(self, batch, *arguments):
    started = time.perf_counter()
    result = step(self, batch, *arguments)
    if len(batch) == self.settings.batch_size:
        durations.append(time.perf_counter() - started)
    if len(durations) == {STEPS}:
        with open(answer, "w") as file:
            json.dump({{"peak_bytes": peak_resident_bytes(), "seconds_per_step": min(durations[1:])}}, file)
        os._exit(0)
    return result


Trainer._train_step = timed
from menvae.apps.train import main

main()
"""
FIXED = {
    "trainer.max_epochs": 2 * STEPS,
    "data.num_subjects": 12,
    "data.spacing_mm": None,
    "pictures.num_subjects": 0,
}
MOST_VOXELS = 4 * 64**3


def requests(number: int, seed: int, precisions: list[str]) -> list[dict[str, Any]]:
    """Return random requests, as dotted key -> value."""
    draw = random.Random(seed)
    found = []
    while len(found) < number:
        side, batch_size, width = draw.choice([32, 48, 64]), draw.randint(1, 8), draw.choice([16, 32])
        upsampling, recomputes = draw.choice(["transposed", "resize_conv"]), draw.random() < 0.25
        precision = draw.choice(precisions)
        if batch_size * side**3 <= MOST_VOXELS:
            found.append(
                {
                    "data.roi_size": [side] * 3,
                    "encoder.base_filters": width,
                    "decoder.base_filters": width,
                    "decoder.upsampling": upsampling,
                    "trainer.batch_size": batch_size,
                    "trainer.precision": precision,
                    "trainer.activation_checkpointing": recomputes,
                }
            )
    return found


def overrides(changes: dict[str, Any], output_dir: Path) -> list[str]:
    def text(value: object) -> str:
        return "null" if value is None else str(value).lower().replace(" ", "")

    values = {**FIXED, **changes}.items()
    return [f"output_dir={output_dir}", *(f"{key}={text(value)}" for key, value in values)]


def of_a_run(changes: dict[str, Any], output_dir: Path) -> dict[str, float]:
    """Return peak and seconds a step of a real run, whose cohort is prepared before, by another process."""
    configuration = composed(*overrides(changes, output_dir))
    training = OmegaConf.to_container(configuration, resolve=True)
    with logs.only_errors():  # twelve subjects are enough here
        variant(training, {}).load_data(Place(torch.device("cpu"), 0, 1))
    paths = os.pathsep.join([str(HERE), str(HERE / "launchers")])
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        subprocess.run(
            [sys.executable, "-c", RUN, str(answer), *overrides(changes, output_dir), "trainer.resume=never"],
            env={**os.environ, "PYTHONPATH": paths},
            cwd=folder,
            check=True,
            capture_output=True,
        )
        return json.loads(answer.read_text())


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--requests", type=int, default=20)
    parser.add_argument("--precisions", nargs="+", default=["fp32"], help="bf16 too, where the CPU has it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=1.0, help="of training per calibrated variant")
    parser.add_argument("--output-dir", type=Path, help="holds prepared cohorts; without one they are drawn")
    options = parser.parse_args()
    wanted = requests(options.requests, options.seed, options.precisions)
    keys = ("encoder.base_filters", "decoder.base_filters", "decoder.upsampling", "trainer.precision")
    kinds = {repr([one[key] for key in keys]): {key: one[key] for key in keys} for one in wanted}
    variants = [
        {**FIXED, **kind, "data.roi_size": [side] * 3, "trainer.batch_size": batch_size}
        for (side, batch_size), kind in product(((32, 2), (48, 4)), kinds.values())
    ]
    ratios: dict[str, list[float]] = {"memory": [], "time": [], "estimated memory": [], "estimated time": []}
    with tempfile.TemporaryDirectory() as folder:
        output_dir = (options.output_dir or Path(folder)).resolve()
        training = OmegaConf.to_container(composed(f"output_dir={output_dir}"), resolve=True)
        estimator = Estimator(training, calibrate(training, variants, options.seconds))
        split = sizes_of_split(training["data"], FIXED["data.num_subjects"])
        print(f"{os.environ.get('OMP_NUM_THREADS', 'all')} threads")
        print("box batch width upsampling  precision recomputes | MiB in a run chosen  estimated | s/step in a run ...")
        for one in wanted:
            changes = {**FIXED, **one}
            found = of_a_run(one, output_dir)
            chosen = needs(training, changes, options.seconds, split)
            estimate = estimator.of(changes)
            peak, seconds = found["peak_bytes"], found["seconds_per_step"]
            ratios["memory"].append(chosen.peak_bytes / peak)
            ratios["time"].append(chosen.seconds_per_step / seconds)
            ratios["estimated memory"].append(estimate.peak_bytes / peak)
            ratios["estimated time"].append(estimate.seconds_per_step / seconds)
            print(
                f"{one['data.roi_size'][0]:3} {one['trainer.batch_size']:5} {one['encoder.base_filters']:5} "
                f"{one['decoder.upsampling']:11} {one['trainer.precision']:9} "
                f"{one['trainer.activation_checkpointing']!s:10} | {peak / 2**20:12.0f} x {ratios['memory'][-1]:4.2f} "
                f"x {ratios['estimated memory'][-1]:4.2f}    | {seconds:8.3f} x {ratios['time'][-1]:4.2f} "
                f"x {ratios['estimated time'][-1]:4.2f}",
                flush=True,
            )
    claims = []
    for what, limit in (("memory", 0.10), ("time", 0.15)):
        within = sum(abs(ratio - 1.0) <= limit for ratio in ratios[what]) / len(wanted)
        extremes = f"{min(ratios[what]):.2f} to {max(ratios[what]):.2f}"
        claims.append(at_least(f"{what} within {limit:.0%} of a run, share of requests ({extremes})", within, 1.0))
    for what in ("estimated memory", "estimated time"):
        extremes = f"{min(ratios[what]):.2f} to {max(ratios[what]):.2f}"
        noted(f"{what} / that of a run, median ({extremes})", statistics.median(ratios[what]))
    return judged(claims)


if __name__ == "__main__":
    sys.exit(main())
