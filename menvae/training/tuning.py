"""Settings of a training step that change its speed and not its meaning, chosen by timing steps (``trainer.tune``)."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from menvae import collectives
from menvae.cores import num_cores
from menvae.errors import UserError
from menvae.files import DamagedFileError, read_json, write_json
from menvae.layers import fold_upsampling, set_memory_format
from menvae.models import Model
from menvae.objective import Objective
from menvae.training.graphs import ReplayedModel
from menvae.training.precision import autocast
from menvae.types import Batch, Progress

_log = logging.getLogger(__name__)

WORTH = 0.97
"""A setting replaces the one before it if its step takes at most this share of the time; less is the clock."""
SECONDS = {"cpu": 10.0, "cuda": 60.0}
"""Time that tuning may take, by type of device."""


@dataclass(frozen=True)
class Choice:
    """What can be chosen.

    Attributes:
        precision: ``fp32``, ``bf16`` or ``fp16``.
        channels_last: memory format of inputs and weights.
        num_threads: threads of an operation on CPU; 0: those that torch has.
        cudnn_benchmark: whether cuDNN times its algorithms at the first batch of a shape.
        folded: see `menvae.layers.UpBlock`.
        cuda_graphs: whether the model's passes are replayed from CUDA graphs.
    """

    precision: str = "fp32"
    channels_last: bool = True
    num_threads: int = 0
    cudnn_benchmark: bool = False
    folded: bool | None = None
    cuda_graphs: bool = False

    def apply(self) -> None:
        """Set what belongs to the process: threads and cuDNN."""
        if self.num_threads:
            torch.set_num_threads(self.num_threads)
        torch.backends.cudnn.benchmark = self.cudnn_benchmark

    @property
    def memory_format(self) -> torch.memory_format:
        """Memory format of volumes and of the weights of 3D convolutions."""
        return torch.channels_last_3d if self.channels_last else torch.contiguous_format


@dataclass(frozen=True)
class Tuned:
    """The outcome.

    Attributes:
        choice: the fastest found.
        milliseconds: of a forward pass, the objective and a backward pass, by what was tried.
        seconds: that it took.
        remembered: whether an earlier process measured it.
    """

    choice: Choice
    milliseconds: Mapping[str, float]
    seconds: float
    remembered: bool = False

    def words(self) -> str:
        """Return a sentence for the log."""
        tried = ", ".join(f"{name} {value:.0f} ms" for name, value in self.milliseconds.items())
        when = "measured earlier" if self.remembered else f"measured in {self.seconds:.0f} s"
        chosen = ", ".join(f"{name}={value}" for name, value in asdict(self.choice).items())
        return f"trainer.tune, {when}: {chosen} ({tried})"

    def as_dict(self) -> dict[str, Any]:
        """Return it for ``environment.json``."""
        return {**asdict(self.choice), "milliseconds": dict(self.milliseconds), "measured_earlier": self.remembered}


Alternatives = Sequence[tuple[str, Sequence[Any]]]


def alternatives(device: torch.device, start: Choice, *, graphs: bool, compiled: bool = False) -> Alternatives:
    """Return the fields to try, in this order, each with its other values.

    Compilation is not among them: `torch.compile` needs more than the time that tuning may take.

    Args:
        device: device of the model.
        start: what is measured first.
        graphs: whether CUDA graphs may be used.
        compiled: whether the model is compiled, which folds nothing.
    """
    found: list[tuple[str, Sequence[Any]]] = [("channels_last", [not start.channels_last])]
    if device.type == "cpu":
        return [("num_threads", sorted({1, num_cores()} - {start.num_threads})), *found]
    found = [("cudnn_benchmark", [True]), *found]
    if not compiled:
        found.append(("folded", [True]))
    if graphs:
        found.append(("cuda_graphs", [True]))
    return found


def search(
    start: Choice, others: Alternatives, measure: Callable[[Choice], float], limit_s: float
) -> tuple[Choice, dict[str, float]]:
    """Change one field after another, and keep what is faster.

    Args:
        start: measured first.
        others: fields and their other values.
        measure: seconds of a step; an `UnusableChoiceError` skips a choice.
        limit_s: nothing is tried that would probably end later than this many seconds after the start.

    Returns:
        The fastest choice, and milliseconds by what was tried.
    """
    begun = time.monotonic()
    best, found = start, {}
    try:
        seconds = measure(start)
    except UnusableChoiceError as error:
        _log.info("trainer.tune: nothing can be measured: %s", error)
        return start, {}
    cost = time.monotonic() - begun
    found["as configured"] = 1e3 * seconds
    for name, values in others:
        for value in values:
            candidate = replace(best, **{name: value})
            if candidate == best or time.monotonic() - begun + cost > limit_s:
                continue
            started = time.monotonic()
            try:
                measured = measure(candidate)
            except UnusableChoiceError as error:
                _log.info("trainer.tune: %s=%s cannot be used: %s", name, value, error)
                continue
            cost = max(cost, time.monotonic() - started)
            found[f"{name}={value}"] = 1e3 * measured
            if measured < WORTH * seconds:
                best, seconds = candidate, measured
    return best, found


class UnusableChoiceError(Exception):
    """A choice that this model or device does not allow."""


class StepTimer:
    """Times steps of copies of a model and an objective: those of the run are not touched."""

    def __init__(self, model: Model, objective: Objective, batch: Batch, progress: Progress) -> None:
        """Remember what to time.

        Args:
            model: on its device.
            objective: on the same device.
            batch: a full training batch, on the same device.
            progress: position of the step: late enough that every term has its weight.
        """
        self.model, self.objective, self.batch, self.progress = model, objective, batch, progress

    def __call__(self, choice: Choice) -> float:
        """Return the seconds of the fastest of three steps after one or two to warm up, fewer if they are slow."""
        threads = torch.get_num_threads()
        choice.apply()
        try:
            with collectives.alone():  # the other ranks wait for the outcome
                return min(self._seconds(choice))
        except torch.OutOfMemoryError as error:
            raise UnusableChoiceError("out of memory") from error
        except (UserError, RuntimeError) as error:  # a kernel that this device or version lacks
            raise UnusableChoiceError(str(error)) from error
        finally:
            torch.set_num_threads(threads)

    def _seconds(self, choice: Choice) -> Iterator[float]:
        device = self.batch.inputs.device
        model, objective = copy.deepcopy(self.model), copy.deepcopy(self.objective)
        set_memory_format(model, choice.memory_format)
        fold_upsampling(model, choice.folded)
        batch = self.batch.to(device, choice.memory_format)
        model.train()
        objective.train()
        parallel = ReplayedModel(model, len(batch), choice.precision) if choice.cuda_graphs else model
        num_warm = 2 if device.type == "cuda" else 1
        begun = time.monotonic()
        for step in range(num_warm + 3):
            started = time.perf_counter()
            with autocast(device, choice.precision):
                output = parallel(batch)
            objective(batch, output, self.progress).total.backward()
            objective.commit(output)
            model.commit(output)
            model.zero_grad(set_to_none=True)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            slow = time.monotonic() - begun > 0.1 * SECONDS[device.type]
            if step >= num_warm or slow:
                yield time.perf_counter() - started
            if slow:
                return


def tuned(timer: StepTimer, start: Choice, others: Alternatives, memory: Path, about: Mapping[str, Any]) -> Tuned:
    """Return the fastest choice for a model on this device, measured once.

    Args:
        timer: measures.
        start: the configured settings.
        others: see `alternatives`.
        memory: folder of remembered outcomes, made if missing.
        about: what the outcome depends on besides device, versions and shapes: plain values.
    """
    device = timer.batch.inputs.device
    key = {**about, "start": asdict(start), **_circumstances(device), "shapes": _shapes(timer)}
    path = memory / f"{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]}.json"
    if (known := _remembered(path)) is not None:
        return known
    begun = time.monotonic()
    choice, milliseconds = search(start, others, timer, SECONDS[device.type])
    outcome = Tuned(choice, {name: round(value, 3) for name, value in milliseconds.items()}, time.monotonic() - begun)
    if milliseconds:
        memory.mkdir(parents=True, exist_ok=True)
        write_json(path, {"choice": asdict(choice), "milliseconds": dict(outcome.milliseconds), "of": key})
    return outcome


def _remembered(path: Path) -> Tuned | None:
    """Return what an earlier process measured; a damaged file is measured again."""
    try:
        content = read_json(path, {"choice": dict, "milliseconds": dict})
        if not content or set(content["choice"]) != {field.name for field in fields(Choice)}:
            return None
        return Tuned(Choice(**content["choice"]), content["milliseconds"], 0.0, remembered=True)
    except (DamagedFileError, TypeError):
        return None


def _circumstances(device: torch.device) -> dict[str, Any]:
    """Return device and versions."""
    if device.type == "cuda":
        where = {"device": torch.cuda.get_device_name(device), "cudnn": torch.backends.cudnn.version()}  # type: ignore[no-untyped-call]
    else:
        where = {"device": torch.backends.cpu.get_cpu_capability(), "cores": num_cores()}
    return {**where, "torch": torch.__version__}


def _shapes(timer: StepTimer) -> list[Any]:
    """Return the shapes that the time of a step depends on: of the batch and of all convolutions."""
    weights = [list(value.shape) for value in timer.model.parameters() if value.ndim == 5]
    return [list(timer.batch.inputs.shape), weights or [list(value.shape) for value in timer.model.parameters()]]
