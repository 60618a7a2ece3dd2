"""``menvae-bench``: how fast this machine trains, where the time goes, and how that compares with known machines."""

from __future__ import annotations

import json
import logging
import statistics
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from omegaconf import DictConfig

from menvae import __version__
from menvae.capacity.table import comparison_lines, measurements_table
from menvae.capacity.variants import box_changes, variant, without_own_keys
from menvae.configuration import check_writable, path_of
from menvae.console import logs
from menvae.console.progress import progress_bar
from menvae.errors import ExitCode, UserError
from menvae.files import write_json
from menvae.interruption import StopRequest
from menvae.layers import STRIDE
from menvae.registry import Field, validated
from menvae.resources.machine import Peaks, computes_bf16_fast, describe_machine, measure_peaks
from menvae.resources.shortage import is_out_of_memory
from menvae.runs.assembly import AssembledRun
from menvae.runs.micro_batches import cost_of_step
from menvae.training.allocation import keep_freed_memory
from menvae.training.determinism import make_deterministic
from menvae.training.phases import PhaseClock
from menvae.training.place import Place

_log = logging.getLogger(__name__)

FORMAT = 1
_ON_CPU, _ON_GPU = (32, 64), (32, 64, 96, 128, 160)
_STEPS_PER_EPOCH = 4


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """Keys of ``menvae-bench`` beside those of training.

    Attributes:
        sizes: sides of the box in voxels; None: 32 and 64, on a GPU also 96, 128 and 160.
        precisions: None: fp32, and bf16 where the device computes it fast.
        seconds: seconds of training per size and precision.
        result: path of the JSON file.
    """

    sizes: Sequence[Annotated[int, Field(ge=STRIDE, multiple_of=STRIDE)]] | None = None
    precisions: Sequence[Literal["fp32", "bf16", "fp16"]] | None = None
    seconds: Annotated[float, Field(gt=0.0, le=120.0)] = 8.0
    result: str = "./outputs/bench.json"


@dataclass(frozen=True)
class Measurement:
    """Training of one model at one size and precision.

    Attributes:
        size: side of the box in voxels.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        batch_size: subjects per step.
        steps: measured steps.
        steps_per_s: optimiser steps a second.
        volumes_per_s: subjects a second.
        shares: phase -> share of the time of a step (`menvae.training.phases.PHASES`).
        gflop_per_step: floating-point operations of a step, in 1e9.
        gb_per_step: bytes that its operations read and write, in 1e9.
        roofline_ms: duration of a step whose operations all run at the measured peaks.
        fraction_of_roofline: that over the measured duration.
    """

    size: int
    precision: str
    batch_size: int
    steps: int
    steps_per_s: float
    volumes_per_s: float
    shares: Mapping[str, float] = field(default_factory=dict)
    gflop_per_step: float = 0.0
    gb_per_step: float = 0.0
    roofline_ms: float = 0.0
    fraction_of_roofline: float = 0.0


def bench(composed: DictConfig) -> ExitCode:
    """Measure, compare, write one JSON file and show a table.

    Args:
        composed: composed configuration of ``conf/bench.yaml``.

    Raises:
        UserError: the configuration is invalid.
    """
    training, own = without_own_keys(composed, BenchSettings.__dataclass_fields__)
    settings = validated(BenchSettings, own, "")
    path = path_of(settings.result, "result").resolve()
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    sizes = list(settings.sizes or (_ON_GPU if device.type == "cuda" else _ON_CPU))
    precisions: list[str] = ["fp32", "bf16"] if computes_bf16_fast(device) else ["fp32"]
    if settings.precisions is not None:
        precisions = list(settings.precisions)
    if device.type == "cpu" and "fp16" in precisions:
        raise UserError("precisions: 'fp16' is not allowed on a CPU; choose fp32 or bf16")
    check_writable(path.parent)
    make_deterministic(device)
    if device.type == "cpu":
        keep_freed_memory()
    logs.configure(None)
    try:
        _log.info("measuring the peaks of this machine")
        peaks = measure_peaks(device, precisions)
        pairs = [(size, precision) for size in sizes for precision in precisions]
        with tempfile.TemporaryDirectory(prefix=".bench-", dir=path.parent) as folder:
            training = _with_temporary_phantoms(training, Path(folder))
            found = list(_measured(training, settings, progress_bar(pairs, "measuring", len(pairs)), device, peaks))
        result: dict[str, Any] = {
            "format": FORMAT,
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "menvae": __version__,
            "model": training["name"],
            "machine": describe_machine(device),
            "peaks": {"gflops": peaks.gflops, "gb_per_s": peaks.gb_per_s},
            "measurements": [vars(one) for one in found],
        }
        result["compared"] = {reference["machine"]["name"]: share(result, reference) for reference in references()}
        write_json(path, result)
        logs.show(measurements_table(result))
        for line in comparison_lines(result, references()):
            logs.show(line)
        _log.info("result: %s", path)
    finally:
        logs.release()
    return ExitCode.DONE


def _with_temporary_phantoms(training: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return a configuration that keeps prepared phantoms and tuning in a folder; other data keep their cache."""
    return {**training, "output_dir": str(folder)} if training["data"].get("name") == "phantom" else training


def _measured(
    training: Mapping[str, Any],
    settings: BenchSettings,
    pairs: Iterable[tuple[int, str]],
    device: torch.device,
    peaks: Peaks,
) -> Iterator[Measurement]:
    """Yield one measurement after another; a size that does not fit is skipped."""
    for size, precision in pairs:
        try:
            yield measure(training, size, precision, settings.seconds, device, peaks)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            _log.warning("%d^3 in %s does not fit into memory: left out", size, precision)
        if device.type == "cuda":
            torch.cuda.empty_cache()


def measure(
    training: Mapping[str, Any], size: int, precision: str, seconds: float, device: torch.device, peaks: Peaks
) -> Measurement:
    """Train for some seconds at one size and precision: first at full speed, then with a clock.

    Args:
        training: plain values of ``conf/train.yaml``; its data become a few phantoms.
        size: side of the box in voxels.
        precision: precision of the forward pass.
        seconds: of training.
        device: where.
        peaks: peaks of the device.

    Raises:
        UserError: the configuration is invalid.
    """
    batch_size = int(training["trainer"]["batch_size"])
    changes = {
        **box_changes(training, size),
        "data.num_subjects": max(10, round(1.3 * _STEPS_PER_EPOCH * batch_size)),
        "trainer.precision": precision,
    }
    experiment = variant(training, changes)
    here = Place(device, 0, 1)
    with tempfile.TemporaryDirectory(prefix="menvae-") as folder, logs.only_errors():
        data = experiment.load_data(here)
        run = AssembledRun(experiment, data, here, Path(folder), StopRequest())
        steps = run.trainer.timed_steps(seconds / 2)
        clock = PhaseClock(device)
        run.trainer.timed_steps(seconds / 2, clock)
    cost = cost_of_step(experiment, run.trainer, batch_size)
    step_s = statistics.median(steps)
    roofline_s = cost.roofline_seconds(1e9 * peaks.gflops[precision], 1e9 * peaks.gb_per_s)
    return Measurement(
        size,
        precision,
        batch_size,
        len(steps),
        1.0 / step_s,
        batch_size / step_s,
        clock.shares(),
        cost.flops / 1e9,
        cost.num_bytes / 1e9,
        1000.0 * roofline_s,
        roofline_s / step_s,
    )


def references() -> list[dict[str, Any]]:
    """Return the results of named machines that ship with menvae, by name."""
    folder = Path(__file__).parent / "machines"
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


def share(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> float | None:
    """Return the speed of a machine relative to another one, the geometric mean over what both have measured.

    Args:
        mine: a result of ``menvae-bench``.
        theirs: another one.

    Returns:
        None if they trained different models, or have no size, precision and batch in common.
    """
    if mine["model"] != theirs["model"]:
        return None
    known = {_key(one): one["volumes_per_s"] for one in theirs["measurements"]}
    ratios = [one["volumes_per_s"] / known[_key(one)] for one in mine["measurements"] if _key(one) in known]
    return statistics.geometric_mean(ratios) if ratios else None


def _key(measurement: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(measurement[name] for name in ("size", "precision", "batch_size"))
