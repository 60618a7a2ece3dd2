"""A training step on a GPU: beside its roofline, beside itself without what menvae adds, and NVIDIA's published figure.

Run 6 in bf16, batch 2, on noise: milliseconds of a step as `trainer.tune` chooses it, against the roofline that
arithmetic and memory traffic of plain eager torch allow on an H200, and with CUDA graphs or the fused GroupNorm
turned off. Volumes a second at 128^3 stand beside those that NVIDIA publishes for nnU-Net on an A100: another network.
Losses and gradient norms with and without graphs must agree to 1e-3, and a step may wait for the GPU once. The exit
status is 1 if a check fails, and 0 with a sentence where there is no GPU.

    python tests/benchmarks/on_gpu.py --json on_gpu.json
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from hydra import compose, initialize_config_dir
from ratios import Figure, report

from menvae import layers
from menvae.composition.experiment import Experiment
from menvae.registry import configuration_folder
from menvae.training.graphs import ReplayedModel
from menvae.training.passes import WholeBatch
from menvae.training.precision import autocast
from menvae.training.step import Optimisation, TrainingStep
from menvae.training.tuning import Choice, StepTimer, alternatives, search
from menvae.types import Batch, Progress

ROOFLINE_MS = {128: 3.2, 160: 6.2}
"""Of a forward and backward pass of Run 6, batch 2, on an H200: the larger of FLOPs / peak and bytes / bandwidth."""
NVIDIA_VOLUMES_PER_S = 6.74
"""Volumes of 4 x 128^3 a second that nnU-Net trains with, batch 2, on an A100: NVIDIA's page of its nnU-Net."""
DEVICE = torch.device("cuda")
PROGRESS = Progress(300.0, 600.0)


def run6(side: int) -> list[str]:
    box = [f"data.roi_size=[{side},{side},{side}]", "data.spacing_mm=[1.25,1.25,1.25]"]
    return ["experiment=semivae_run6", "data=phantom", *box]


class Step:
    """One training step, repeated on the same batch of noise."""

    def __init__(self, overrides: list[str], rows: int) -> None:
        with initialize_config_dir(str(configuration_folder("menvae")), version_base="1.3"):
            self.experiment = Experiment.from_config(compose("train", overrides))
        torch.manual_seed(0)
        model, objective = self.experiment.build(400)
        self.model, self.objective = model.to(DEVICE).train(), objective.to(DEVICE).train()
        sizes = {name: len(targets) for name, targets in self.experiment.supervision.items()}
        self.batch = Batch(
            inputs=torch.randn(rows, 4, *self.experiment.source.size),
            subject_id=tuple(str(row) for row in range(rows)),
            targets={name: torch.randn(rows, size) for name, size in sizes.items()},
            observed={name: torch.ones(rows, size, dtype=torch.bool) for name, size in sizes.items()},
        ).to(DEVICE)

    def tuned(self) -> Choice:
        timer = StepTimer(self.model, self.objective, self.batch, PROGRESS)
        start = Choice("bf16")
        choice, _ = search(start, alternatives(DEVICE, start, any_precision=False, graphs=True), timer, 60.0)
        return choice

    def taken(self, choice: Choice) -> Callable[[], tuple[float, float]]:
        """Return a function that takes a step, and returns its loss and gradient norm."""
        choice.apply()
        layers.set_memory_format(self.model, choice.memory_format)
        layers.fold_upsampling(self.model, choice.folded)
        batch, count = self.batch.to(DEVICE, choice.memory_format), 0
        parallel = ReplayedModel(self.model, len(batch), choice.precision) if choice.cuda_graphs else self.model
        optimizer = self.experiment.parts["optimizer"](self.model.parameters())
        scaler = torch.amp.GradScaler("cuda", enabled=False)
        passes = WholeBatch(parallel, partial(autocast, DEVICE, choice.precision))
        shared = Optimisation(self.model, passes, self.objective, optimizer, scaler, DEVICE, choice.precision, 1.0)

        def step() -> tuple[float, float]:
            nonlocal count
            count += 1
            torch.manual_seed(count)
            stepper = TrainingStep(shared, batch, PROGRESS, count, 1)
            output, losses = stepper.evaluate()
            norm = stepper.descend(losses.total)
            self.objective.commit(output)
            return stepper.logged(losses)["loss"], norm

        return step


def milliseconds(step: Callable[[], object]) -> float:
    """Median of 15 steps after 4."""
    found = []
    for count in range(19):
        torch.cuda.synchronize()
        started = time.perf_counter()
        step()
        torch.cuda.synchronize()
        if count >= 4:
            found.append(1e3 * (time.perf_counter() - started))
    return statistics.median(found)


def figures_of_run6() -> list[Figure]:
    found = []
    for side in (64, 128, 160):
        choice = Step(run6(side), 2).tuned()
        torch.cuda.reset_peak_memory_stats()
        best = milliseconds(Step(run6(side), 2).taken(choice))
        peak = torch.cuda.max_memory_allocated() / 2**30
        eager = milliseconds(Step(run6(side), 2).taken(Choice("bf16")))
        found += [
            Figure(f"Run 6, {side}^3, batch 2, bf16: ms a step ({choice})", best),
            Figure(f"Run 6, {side}^3: speed beside eager with fused GroupNorm", eager / best),
            Figure(f"Run 6, {side}^3: peak memory in GiB", peak),
        ]
        if side in ROOFLINE_MS:
            found.append(
                Figure(f"Run 6, {side}^3: times the roofline of an H200", best / ROOFLINE_MS[side], 2.0, False)
            )
        if side == 128:
            volumes = 2e3 / best
            found.append(
                Figure(
                    "Run 6, 128^3: volumes/s over those of NVIDIA's nnU-Net on an A100", volumes / NVIDIA_VOLUMES_PER_S
                )
            )
    with patch.object(layers, "can_fuse", lambda *_: False):  # torch's own GroupNorm
        plain = milliseconds(Step(run6(160), 2).taken(Choice("bf16")))
    found.append(Figure("Run 6, 160^3: ms a step, eager with torch's GroupNorm", plain))
    return found


def agreement() -> Figure:
    """Largest relative difference of losses and gradient norms of four steps with and without graphs, in fp32."""
    found = []
    for graphs in (False, True):
        step = Step(run6(32), 2).taken(Choice("fp32", cuda_graphs=graphs))
        found.append(torch.tensor([step() for _ in range(2)]))
    difference = ((found[0] - found[1]).abs() / found[0]).max().item()
    return Figure(
        "Run 6, 32^3, fp32: relative difference of two steps with and without graphs", difference, 1e-3, False
    )


def waits() -> Figure:
    """How often a step of the default model waits for the GPU."""
    step = Step([], 8).taken(Choice("fp32"))
    milliseconds(step)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        step()
        torch.cuda.set_sync_debug_mode("default")
    count = sum("called a synchronizing" in str(warning.message) for warning in caught)
    return Figure("default model: waits for the GPU in a step", count, 1.0, False)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("no GPU: a step beside its roofline, CUDA graphs and waits for the device are not measured")
        return 0
    checks = [agreement(), waits()]
    report([*figures_of_run6(), *checks], options.json)
    return int(any(check.verdict == "missed" for check in checks))


if __name__ == "__main__":
    sys.exit(main())
