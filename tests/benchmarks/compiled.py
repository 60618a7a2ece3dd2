"""Does `trainer.compile=true` give what the model gives without it, and is it faster?

A tiny model of the default structure, on batches of two sizes (the last batch of an epoch is smaller), plain, with
activation checkpointing, and with spectral norm. Outputs and gradients must agree to 1e-3 of their norm, with random
numbers that the compiler takes from torch. The exit status is 1 when they do not. Many minutes, nearly all of it
compilation.

    python tests/benchmarks/compiled.py
"""

from __future__ import annotations

import sys
import time

import torch
from hydra import compose, initialize_config_dir
from torch import Tensor, nn

from menvae.composition.experiment import Experiment
from menvae.models import Model
from menvae.registry import configuration_folder
from menvae.types import Batch, Progress

TINY = (
    *("data.roi_size=[16,16,16]", "data.spacing_mm=[10,10,10]", "encoder.base_filters=8"),
    *("model.z_dim=16", "model.partitions={vol:4,loc:3,shape:4}"),
)
CASES = {
    "default": (),
    "activation checkpointing": ("trainer.activation_checkpointing=true",),
    "spectral norm": ("encoder.spectral_norm=true", "decoder.spectral_norm=true"),
}
TOLERANCE = 1e-3


def main() -> int:
    """Compare case by case; 0 when all agree, 1 when one does not."""
    torch._inductor.config.fallback_random = True
    wanted = sys.argv[1:] or list(CASES)
    return max([_compare(case) for case in wanted])


def _compare(case: str) -> int:
    torch._dynamo.reset()
    with initialize_config_dir(str(configuration_folder("menvae")), version_base="1.3"):
        experiment = Experiment.from_config(compose("train", [*TINY, *CASES[case]]))
    worst, milliseconds = 0.0, {}
    for rows in (8, 3):
        found: dict[bool, dict[str, Tensor]] = {}
        for compiled in (False, True):
            model, objective = experiment.build(8)
            if compiled:
                model.compile()
            batch = _noise(experiment, rows)
            found[compiled] = _step(model, objective, batch)
            started = time.perf_counter()
            for _ in range(5):
                _step(model, objective, batch)
            milliseconds[compiled] = 200.0 * (time.perf_counter() - started)
        for name, value in found[False].items():
            distance = (found[True][name] - value).norm() / value.norm().clamp(min=1e-6)
            worst = max(worst, distance.item())
    holds = worst < TOLERANCE
    times = f"{milliseconds[False]:.1f} ms a step, compiled {milliseconds[True]:.1f}"
    print(f"{'holds' if holds else 'FAILS':<6} {case}: largest relative difference {worst:.1e}; {times}", flush=True)
    return 0 if holds else 1


def _step(model: Model, objective: nn.Module, batch: Batch) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model.zero_grad()
    output = model(batch)
    report = objective(batch, output, Progress(15.0, 15.0))
    report.total.backward()
    gradients = {f"gradient of {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"total": report.total.detach(), "reconstruction": output.reconstruction.detach(), **gradients}


def _noise(experiment: Experiment, rows: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    sizes = {partition: len(features) for partition, features in experiment.supervision.items()}
    return Batch(
        inputs=torch.randn(rows, 4, 16, 16, 16, generator=generator),
        subject_id=tuple(str(row) for row in range(rows)),
        targets={partition: torch.randn(rows, size, generator=generator) for partition, size in sizes.items()},
        observed={partition: torch.ones(rows, size, dtype=torch.bool) for partition, size in sizes.items()},
    )


if __name__ == "__main__":
    sys.exit(main())
