"""Estimates of memory and time against real training processes, for random requests.

Each request is a box of at most 64^3, a batch, a width, an up-sampling, a precision and whether activations are
recomputed. Estimated and measured are the peak resident memory of ``menvae-train`` (`ru_maxrss` after some steps, with
data, trackers and all that a run imports), and the duration of a step. Printed are both, their ratios, and whether
memory is within 10 % and time within 15 %. Times mean something only on a machine that does nothing else.

    python tests/benchmarks/resources.py --requests 20
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import torch
from interleaved import at_least, judged
from omegaconf import OmegaConf

sys.path.insert(0, str(Path(__file__).parents[1]))

from shrunk import composed

from menvae.capacity.calibration import calibrate
from menvae.capacity.estimate import Estimator
from menvae.capacity.variants import variant
from menvae.training.place import Place

HERE = Path(__file__).resolve().parents[2]
STEPS = 6
RUN = f"""
import json, os, resource, sys, time
from menvae.training.trainer import Trainer

step, durations, answer = Trainer._train_step, [], sys.argv.pop(1)


def timed(self, batch, *arguments):
    started = time.perf_counter()
    result = step(self, batch, *arguments)
    if len(batch) == self.settings.batch_size:
        durations.append(time.perf_counter() - started)
    if len(durations) == {STEPS}:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        with open(answer, "w") as file:
            json.dump({{"peak_bytes": peak, "seconds_per_step": min(durations[1:])}}, file)
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


def measured(changes: dict[str, Any], output_dir: Path) -> dict[str, float]:
    """Return peak and seconds a step of a real run, whose cohort is prepared before, by another process."""
    configuration = composed(*overrides(changes, output_dir))
    training = OmegaConf.to_container(configuration, resolve=True)
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
        for (side, batch_size), kind in product(((32, 1), (48, 4)), kinds.values())
    ]
    errors: dict[str, list[float]] = {"memory": [], "time": []}
    with tempfile.TemporaryDirectory() as folder:
        output_dir = (options.output_dir or Path(folder)).resolve()
        training = OmegaConf.to_container(composed(f"output_dir={output_dir}"), resolve=True)
        estimator = Estimator(training, calibrate(training, variants, options.seconds))
        print(f"{os.environ.get('OMP_NUM_THREADS', 'all')} threads")
        print(
            "box batch width upsampling  precision recomputes |  MiB est. measured ratio | s/step est. measured ratio"
        )
        for one in wanted:
            found, estimate = measured(one, output_dir), estimator.of({**FIXED, **one})
            memory = estimate.peak_bytes / found["peak_bytes"]
            seconds = estimate.seconds_per_step / found["seconds_per_step"]
            errors["memory"].append(abs(memory - 1.0))
            errors["time"].append(abs(seconds - 1.0))
            print(
                f"{one['data.roi_size'][0]:3} {one['trainer.batch_size']:5} {one['encoder.base_filters']:5} "
                f"{one['decoder.upsampling']:11} {one['trainer.precision']:9} "
                f"{one['trainer.activation_checkpointing']!s:10} | {estimate.peak_bytes / 2**20:9.0f} "
                f"{found['peak_bytes'] / 2**20:8.0f} {memory:5.2f} | {estimate.seconds_per_step:11.3f} "
                f"{found['seconds_per_step']:8.3f} {seconds:5.2f}",
                flush=True,
            )
    claims = []
    for what, limit in (("memory", 0.10), ("time", 0.15)):
        within = sum(error <= limit for error in errors[what]) / len(errors[what])
        words = f"{what} within {limit:.0%} of the measured, share of requests (worst {max(errors[what]):.1%})"
        claims.append(at_least(words, within, 1.0))
    return judged(claims)


if __name__ == "__main__":
    sys.exit(main())
