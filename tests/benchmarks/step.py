"""Time and memory of a training step on a CPU, beside plain torch and beside another checkout, A B A B.

Run 6 at 64^3, batch 2, with trilinear and with nearest up-sampling, the default model at 32^3, batch 8, and the recipe
(``experiment=semivae``) beside the default model at 64^3, batch 2. A step is
forward, loss, backward and AdamW, in fp32 and in bf16, which `trainer.precision=auto` takes on a CPU that has
instructions for it. ``plain`` is the same model in fp32 and contiguous memory: `torch.nn.Upsample` and
`torch.nn.GroupNorm`, nothing folded. Each variant has a process; they take turns, so that a machine that slows down
slows all of them, and ratios are of the fastest steps. Memory is what autograd keeps from the forward pass (parameters
aside), and the resident peak of a step above what was resident before it.

    python tests/benchmarks/step.py --beside ../of-last-month --json step.json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from interleaved import Claim, at_least, at_most, judged

HERE = Path(__file__).resolve().parents[2]
NEAREST = ("decoder.upsampling=nearest", "auxiliary_decoder.upsampling=nearest")
RUN_6 = ("experiment=semivae_run6", "data.roi_size=[64,64,64]", "data.spacing_mm=[3,3,3]", "trainer.precision=fp32")
AT_64 = ("data.roi_size=[64,64,64]", "trainer.precision=fp32")
CASES: dict[str, tuple[tuple[str, ...], int, int]] = {
    "run 6, trilinear": (RUN_6, 2, 64),
    "run 6, nearest": ((*RUN_6, *NEAREST), 2, 64),
    "default": ((), 8, 32),
    "64^3, default": (AT_64, 2, 64),
    "64^3, recipe": (("experiment=semivae", *AT_64), 2, 64),
}
GOALS = (
    ("run 6, trilinear, plain / here", "run 6, trilinear: plain", "run 6, trilinear: here", "fastest_s", 2.0),
    ("run 6, nearest, plain trilinear / here", "run 6, trilinear: plain", "run 6, nearest: here", "fastest_s", 2.85),
    ("run 6, trilinear, plain / bf16 here", "run 6, trilinear: plain", "run 6, trilinear: bf16", "fastest_s", 2.0),
    (
        "run 6, nearest, plain trilinear / bf16 here",
        "run 6, trilinear: plain",
        "run 6, nearest: bf16",
        "fastest_s",
        2.85,
    ),
    ("default, beside / here", "default: beside", "default: here", "fastest_s", 1.5),
    ("default, beside / bf16 here", "default: beside", "default: bf16", "fastest_s", 1.5),
    ("run 6, activations, here / beside", "run 6, trilinear: here", "run 6, trilinear: beside", "activations_mb", 0.8),
    ("run 6, resident peak, here / beside", "run 6, trilinear: here", "run 6, trilinear: beside", "peak_mb", 0.8),
    (
        "run 6, activations with checkpointing, here / beside",
        "run 6, recomputed: here",
        "run 6, trilinear: beside",
        "activations_mb",
        0.45,
    ),
    (
        "run 6, resident peak with checkpointing, here / beside",
        "run 6, recomputed: here",
        "run 6, trilinear: beside",
        "peak_mb",
        0.45,
    ),
    ("64^3, default / recipe", "64^3, default: here", "64^3, recipe: here", "fastest_s", 1.0 / 1.3),
    ("64^3, activations, recipe / run 6", "64^3, recipe: here", "run 6, trilinear: here", "activations_mb", 1.0),
    ("64^3, resident peak, recipe / run 6", "64^3, recipe: here", "run 6, trilinear: here", "peak_mb", 1.0),
)
"""Name, numerator, denominator, what of them, goal: a ratio of times is to be above it, of memory below it."""


class Step:
    """A training step of one case, as a checkout computes it."""

    def __init__(self, case: str, form: str) -> None:
        import torch
        from hydra import compose, initialize_config_dir

        from menvae.composition.experiment import Experiment
        from menvae.layers import recompute_activations, set_memory_format
        from menvae.registry import configuration_folder
        from menvae.types import Batch, Progress

        overrides, rows, side = CASES[case]
        with initialize_config_dir(str(configuration_folder("menvae")), version_base="1.3"):
            experiment = Experiment.from_config(compose("train", list(overrides)))
        torch.manual_seed(0)
        self.model, self.objective = experiment.build(100)
        memory_format = torch.contiguous_format if form == "plain" else torch.channels_last_3d
        set_memory_format(self.model, memory_format)
        if form == "plain":
            make_plain(self.model)
        if form == "recomputed":
            recompute_activations(self.model)
        generator = torch.Generator().manual_seed(0)
        sizes = {partition: len(features) for partition, features in experiment.supervision.items()}
        batch = Batch(
            inputs=torch.randn(rows, 4, side, side, side, generator=generator),
            subject_id=tuple(str(row) for row in range(rows)),
            targets={name: torch.randn(rows, size, generator=generator) for name, size in sizes.items()},
            observed={name: torch.ones(rows, size, dtype=torch.bool) for name, size in sizes.items()},
            mask=torch.randint(0, 4, (rows, 1, side, side, side), generator=generator).float(),
        )
        self.batch = batch.to(torch.device("cpu"), memory_format)
        self.progress = Progress(300.0, 600.0)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=5e-5, fused=form != "plain")
        self.autocast = torch.autocast("cpu", torch.bfloat16, enabled=form == "bf16")

    def loss(self) -> Any:
        with self.autocast:
            output = self.model(self.batch)
        return self.objective(self.batch, output, self.progress).total

    def __call__(self) -> float:
        total = self.loss()
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        self.optimizer.step()
        return total.item()  # type: ignore[no-any-return]


def make_plain(model: Any) -> None:
    """Give every layer torch's own forward pass, unfolded."""
    from torch import nn

    from menvae.layers import GroupNorm, UpBlock

    for module in model.modules():
        if isinstance(module, GroupNorm):
            module.__class__ = nn.GroupNorm
        if isinstance(module, UpBlock):
            module.folded = False


def memory_mb(step: Step) -> tuple[float, float]:
    """Return what autograd keeps, and the resident peak of a step above what was resident before it."""
    import torch

    parameters = {parameter.untyped_storage().data_ptr() for parameter in step.model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        total = step.loss()
    del total
    step.optimizer.zero_grad(set_to_none=True)
    before = _resident_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    step()
    return sum(kept.values()) / 2**20, _resident_mb("VmHWM") - before


def _resident_mb(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024.0 for line in lines if line.startswith(name))


def worker(case: str, form: str, num_threads: int) -> None:
    """Answer each line of the input with the seconds of a step, after one line of losses and memory."""
    import torch

    torch.set_num_threads(num_threads)
    step = Step(case, form)
    losses = [step() for _ in range(2)]
    activations, peak = memory_mb(step)
    if form != "plain":
        with contextlib.suppress(ImportError):  # a checkout of earlier
            from menvae.training.allocation import keep_freed_memory

            keep_freed_memory()  # only now: memory that is kept is resident before a step, too
    found = {"losses": losses, "activations_mb": activations, "peak_mb": peak}
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()
    for _ in sys.stdin:
        started = time.perf_counter()
        step()
        sys.stdout.write(f"{time.perf_counter() - started}\n")
        sys.stdout.flush()


def start(checkout: Path, case: str, form: str, num_threads: int) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(checkout), str(checkout / "launchers")])
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).resolve()), "--worker", case, form, "--threads", str(num_threads)],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": str(num_threads)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def measured(cases: Sequence[str], beside: Path | None, repeats: int, num_threads: int) -> dict[str, dict[str, Any]]:
    """Return {variant: losses, memory, seconds}; the variants of Run 6 take turns, and those of other models."""
    import torch

    found: dict[str, dict[str, Any]] = {}
    for group in ("run 6", "default", "64^3"):
        variants: dict[str, tuple[Path, str, str]] = {}
        for case in (case for case in cases if case.startswith(group)):
            variants[f"{case}: plain"] = (HERE, case, "plain")
            variants[f"{case}: here"] = (HERE, case, "here")
            if torch.cpu._is_avx512_bf16_supported():
                variants[f"{case}: bf16"] = (HERE, case, "bf16")
            if beside is not None:
                variants[f"{case}: beside"] = (beside, case, "here")
            if case == "run 6, trilinear":
                variants["run 6, recomputed: here"] = (HERE, case, "recomputed")
        processes: dict[str, subprocess.Popen[str]] = {}
        for name, variant in variants.items():  # one after the other: each begins with the steps that are slowest
            processes[name] = process = start(*variant, num_threads)
            assert process.stdout is not None
            found[name] = {**json.loads(process.stdout.readline()), "seconds": []}
        for _ in range(repeats):
            for name, process in processes.items():
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write("\n")
                process.stdin.flush()
                found[name]["seconds"].append(float(process.stdout.readline()))
        for name, process in processes.items():
            process.communicate()
            found[name]["fastest_s"] = min(found[name]["seconds"])
    return found


def main() -> int:
    """Measure, print and write."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beside", type=Path, help="another checkout")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(*options.worker, options.threads)
        return 0
    beside = options.beside.resolve() if options.beside else None
    machine = f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, {options.threads} threads"
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    print(f"{machine}; {versions}")
    found = measured(options.cases, beside, options.repeats, options.threads)
    for name, one in found.items():
        print(
            f"{name:26} {one['fastest_s']:7.3f} s (median {statistics.median(one['seconds']):.3f})"
            f"  kept {one['activations_mb']:6.1f} MB  peak {one['peak_mb']:6.1f} MB"
        )
    ratios: dict[str, float] = {}
    claims: list[Claim] = []
    for name, above, below, what, goal in GOALS:
        if above in found and below in found:
            ratios[name] = found[above][what] / found[below][what]
            reaches = at_least if what == "fastest_s" else at_most
            claims.append(reaches(name, ratios[name], goal))
    if options.json:
        results = {"machine": machine, "versions": versions, "variants": found, "ratios": ratios}
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    return judged(claims)


if __name__ == "__main__":
    sys.exit(main())
