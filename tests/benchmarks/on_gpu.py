"""A training step on a GPU: beside its roofline, beside itself without what menvae adds, and NVIDIA's published figure.

Run 6 in bf16, batch 2, on noise: milliseconds of a step as `trainer.tune` chooses it, against the roofline that
arithmetic and memory traffic of plain eager torch allow on an H200, and with CUDA graphs or the fused GroupNorm
turned off. Volumes a second at 128^3 stand beside those that NVIDIA publishes for nnU-Net on an A100: another network.
Losses and gradient norms with and without graphs must agree to 1e-3, and a step may wait for the GPU once. The exit
status is 1 if a claim does not hold, and 0 with a sentence where there is no GPU.

    python tests/benchmarks/on_gpu.py
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import torch
from hydra import compose, initialize_config_dir
from interleaved import Claim, at_most, judged

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
        choice, _ = search(start, alternatives(DEVICE, start, graphs=True), timer, 60.0)
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
        shared = Optimisation(self.model, passes, self.objective, optimizer, scaler, DEVICE, 1.0)

        def step() -> tuple[float, float]:
            nonlocal count
            count += 1
            torch.manual_seed(count)
            stepper = TrainingStep(shared, batch, PROGRESS, count, 1)
            output, losses = stepper.evaluate()
            norm = stepper.descend(losses.total)
            self.objective.commit(output)
            shared.model.commit(batch, output)
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


def run_6() -> list[Claim]:
    """Print the figures of Run 6, and return what is claimed of them."""
    claims: list[Claim] = []
    for side in (64, 128, 160):
        choice = Step(run6(side), 2).tuned()
        torch.cuda.reset_peak_memory_stats()
        best = milliseconds(Step(run6(side), 2).taken(choice))
        peak = torch.cuda.max_memory_allocated() / 2**30
        eager = milliseconds(Step(run6(side), 2).taken(Choice("bf16")))
        print(f"Run 6, {side}^3, batch 2, bf16: {best:.1f} ms a step, {peak:.2f} GiB, with {choice}")
        print(f"    eager, the same GroupNorm: {eager:.1f} ms, {eager / best:.2f} times as long", flush=True)
        if side == 128:
            ratio = 2e3 / best / NVIDIA_VOLUMES_PER_S
            print(f"    {2e3 / best:.1f} volumes/s, {ratio:.2f} times those of NVIDIA's nnU-Net on an A100")
        if side in ROOFLINE_MS:
            claims.append(at_most(f"run 6, {side}^3, step / roofline of an H200", best / ROOFLINE_MS[side], 2.0))
    with patch.object(layers, "can_fuse", lambda *_: False):
        plain = milliseconds(Step(run6(160), 2).taken(Choice("bf16")))
    print(f"Run 6, 160^3, eager with torch's GroupNorm: {plain:.1f} ms a step")
    return claims


def agreement() -> Claim:
    """Compare losses and gradient norms of two steps with and without graphs, in fp32."""
    found = []
    for graphs in (False, True):
        step = Step(run6(32), 2).taken(Choice("fp32", cuda_graphs=graphs))
        found.append(torch.tensor([step() for _ in range(2)]))
    difference = ((found[0] - found[1]).abs() / found[0]).max().item()
    return at_most("two steps with graphs and without, largest relative difference", difference, 1e-3)


def waits() -> Claim:
    """Count how often a step of the default model waits for the GPU."""
    step = Step([], 8).taken(Choice("fp32"))
    milliseconds(step)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        step()
        torch.cuda.set_sync_debug_mode("default")
    count = sum("called a synchronizing" in str(warning.message) for warning in caught)
    return f"a step of the default model, waits for the GPU: {count} (goal 1)", count == 1


def main() -> int:
    """Measure and judge."""
    if not torch.cuda.is_available():
        print("no GPU: a step beside its roofline, CUDA graphs and waits for the device are not measured")
        return 0
    return judged([agreement(), waits(), *run_6()])


if __name__ == "__main__":
    sys.exit(main())
