"""FLOPs, bytes and memory of a training step, counted on tensors without values.

Every operation of a real model is followed, whatever its layers are, with `torch._subclasses.fake_tensor`: shapes
without memory. A step of a size that does not fit here can be traced too, in about a second.
"""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from menvae.models import Model
from menvae.objective import Objective
from menvae.types import Batch, ModelOutput, Progress

WORKSPACE = 0.8
"""Workspace of a convolution relative to its operands: oneDNN copies them into formats of its own.
Measured on a CPU with AVX-512, November 2026."""

MakeOptimizer = Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer]


@dataclass(frozen=True)
class Operation:
    """One operation of a step.

    Attributes:
        name: its name in ATen, such as ``convolution``.
        flops: floating-point operations, a multiplication and an addition counted as two.
        num_bytes: bytes read and written, if every operand passes through memory once.
        itemsize: bytes of an element of its first operand.
    """

    name: str
    flops: int
    num_bytes: int
    itemsize: int


@dataclass(frozen=True)
class StepCost:
    """What a training step costs.

    Attributes:
        operations: the operations of forward pass, loss and backward pass, in order.
        parameter_bytes: size of the parameters, and that of their gradients.
        constant_bytes: size of parameters and buffers.
        optimizer_bytes: size of the optimiser's state.
        output_bytes: size of the model's output.
        peak_bytes: most bytes at one time: in tensors, and in the workspace of the operation that runs.
    """

    operations: Sequence[Operation]
    parameter_bytes: int
    constant_bytes: int
    optimizer_bytes: int
    output_bytes: int
    peak_bytes: int

    @property
    def flops(self) -> int:
        """FLOPs of all operations."""
        return sum(operation.flops for operation in self.operations)

    @property
    def num_bytes(self) -> int:
        """Bytes that all operations read and write."""
        return sum(operation.num_bytes for operation in self.operations)

    def roofline_seconds(self, flops_per_s: float, bytes_per_s: float) -> float:
        """Return the time of the step if each operation ran at the peak of arithmetic or of memory.

        Args:
            flops_per_s: peak of matrix products or convolutions.
            bytes_per_s: peak of memory.
        """
        return sum(max(one.flops / flops_per_s, one.num_bytes / bytes_per_s) for one in self.operations)


@dataclass
class _Memory:
    """Bytes of storages that are alive; each counts once, however many tensors view it."""

    alive: dict[int, int] = field(default_factory=dict)
    now: int = 0
    peak: int = 0

    def add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.alive:
            return
        size = storage.nbytes()
        self.alive[key] = size
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._freed, key)

    def work(self, num_bytes: int) -> None:
        """Count the workspace of an operation, which is free again when it returns."""
        self.peak = max(self.peak, self.now + num_bytes)

    def _freed(self, key: int) -> None:
        self.now -= self.alive.pop(key, 0)


class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records every operation while it is active, and the storages that are alive.

    Attributes:
        operations: what ran, without views, allocations and questions.
        memory: bytes that are alive.
    """

    def __init__(self, *, pauses: bool = False) -> None:
        """Args: pauses: do not record operations, only memory."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[Operation] = []
        self.memory = _Memory()
        self.pauses = pauses

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call ``func`` and record it."""
        kwargs = dict(kwargs or {})
        result = func(*args, **kwargs)
        outputs = _tensors(result)
        for tensor in outputs:
            self.memory.add(tensor)
        if not _moves_nothing(func):
            operation = _operation(func, args, kwargs, result, outputs)
            if "conv" in operation.name:
                self.memory.work(round(WORKSPACE * operation.num_bytes))
            if not self.pauses:
                self.operations.append(operation)
        return result


def _operation(
    func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any, outputs: Sequence[Tensor]
) -> Operation:
    from torch.utils.flop_counter import flop_registry

    packet = func._overloadpacket
    inputs = _tensors([args, list(kwargs.values())])
    seen = {id(tensor): tensor for tensor in (*inputs, *outputs)}
    num_bytes = sum(_bytes_touched(tensor) for tensor in seen.values())
    count = flop_registry.get(packet)
    flops = int(count(*args, **kwargs, out_val=result)) if count is not None else 0
    itemsize = next((tensor.itemsize for tensor in inputs if tensor.is_floating_point()), 4)
    return Operation(packet.__name__, flops, num_bytes, itemsize)


def _bytes_touched(tensor: Tensor) -> int:
    """Return the bytes of a tensor; repeated values of an expanded one are read once."""
    sides = (size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)
    return math.prod(sides) * tensor.itemsize if tensor.numel() else 0


def _moves_nothing(func: Any) -> bool:
    """Return whether a function is a view, an allocation, or a question such as ``prim::device``."""
    if func.namespace == "prim":
        return True
    schema = func._schema
    returns_alias = any(one.alias_info is not None and not one.alias_info.is_write for one in schema.returns)
    return returns_alias or func._overloadpacket.__name__.startswith(("empty", "new_empty", "_local_scalar", "detach"))


def _tensors(nested: Any) -> list[Tensor]:
    if isinstance(nested, Tensor):
        return [nested]
    if isinstance(nested, list | tuple):
        return [tensor for item in nested for tensor in _tensors(item)]
    return []


@dataclass(frozen=True)
class TracedSetting:
    """How a traced step computes.

    Attributes:
        device: device type, such as ``cpu``; it need not exist here.
        autocast: data type of the forward pass's matrix products and convolutions; None: float32.
        channels_last: memory format of volumes.
    """

    device: str = "cpu"
    autocast: torch.dtype | None = None
    channels_last: bool = True


def trace_step(
    model: Model,
    objective: Objective,
    make_optimizer: MakeOptimizer,
    batch: Batch,
    progress: Progress,
    setting: TracedSetting,
) -> StepCost:
    """Trace one training step in the middle of a run.

    Args:
        model: the model, with weights; a copy without values is traced.
        objective: the objective.
        make_optimizer: returns the optimiser of parameters.
        batch: shapes and types of a batch; see `without_values`.
        progress: position in training, for the weights.
        setting: how it computes.
    """
    from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode

    fake = FakeTensorMode()
    with FakeCopyMode(fake):
        model, objective, batch = copy.deepcopy((model, objective, batch))
    with fake:
        if setting.device != "cpu":
            model, objective, batch = (
                model.to(setting.device),
                objective.to(setting.device),
                batch.to(torch.device(setting.device)),
            )
        model.train()
        objective.train()
        tracer = Tracer(pauses=True)
        parameters = list(model.parameters())
        for tensor in (*parameters, *model.buffers(), *objective.buffers()):
            tracer.memory.add(tensor)
        constant = tracer.memory.now
        step = _Step(model, objective, batch, progress, setting)
        with tracer:
            kept = step.run()  # the trainer keeps output and losses of a step until the next one is done
            tracer.pauses = False
            kept = step.run()
        output_bytes = sum(one.nbytes for one in kept[0].tensors().values())
        del kept
    parameter_bytes = sum(parameter.nbytes for parameter in parameters)
    optimizer_bytes = round(parameter_bytes * optimizer_share(make_optimizer))
    peak = max(tracer.memory.peak, constant + parameter_bytes) + optimizer_bytes
    return StepCost(tuple(tracer.operations), parameter_bytes, constant, optimizer_bytes, output_bytes, peak)


@dataclass
class _Step:
    """The passes of a step, on tensors without values."""

    model: Model
    objective: Objective
    batch: Batch
    progress: Progress
    setting: TracedSetting

    def run(self) -> tuple[ModelOutput, Tensor, Batch]:
        batch = self._loaded()
        output = self._passed(batch)
        report = self.objective(batch, output, self.progress)
        for parameter in self.model.parameters():
            parameter.grad = None
        report.total.backward()
        return output, report.total, batch

    def _loaded(self) -> Batch:
        """Return the batch as the trainer receives it: inputs are made anew at every step."""
        memory_format = torch.channels_last_3d if self.setting.channels_last else torch.contiguous_format
        return self.batch.each(Tensor.clone).to(self.batch.inputs.device, memory_format)

    def _passed(self, batch: Batch) -> ModelOutput:
        dtype = self.setting.autocast
        with torch.autocast(self.setting.device, dtype, enabled=dtype is not None):
            output: ModelOutput = self.model(batch)
        return output


def optimizer_share(make_optimizer: MakeOptimizer) -> float:
    """Return the size of an optimiser's state relative to its parameters, from a step of a small one.

    >>> optimizer_share(lambda parameters: torch.optim.AdamW(parameters))
    2.0
    """
    parameter = nn.Parameter(torch.zeros(64, 64))
    optimizer = make_optimizer(iter([parameter]))
    parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    large = [
        value
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor) and value.numel() >= 64
    ]
    return sum(value.nbytes for value in large) / parameter.nbytes


def without_values(
    size: Sequence[int],
    channels: int,
    num_rows: int,
    supervision: Mapping[str, Sequence[str]],
    gives: frozenset[str],
) -> Batch:
    """Return a batch of the shapes that a source gives; its values mean nothing.

    Args:
        size: (D, H, W) or empty for the rows of a table.
        channels: C.
        num_rows: B.
        supervision: partition -> names of its targets.
        gives: optional fields of the batch (see `menvae.data.source.DataSource.gives`).
    """
    names = tuple(f"subject_{row}" for row in range(num_rows))
    return Batch(
        torch.zeros(num_rows, channels, *size),
        names,
        {name: torch.zeros(num_rows, len(targets)) for name, targets in supervision.items() if targets},
        {
            name: torch.ones(num_rows, len(targets), dtype=torch.bool)
            for name, targets in supervision.items()
            if targets
        },
        mask=torch.zeros(num_rows, 1, *size, dtype=torch.int8) if "mask" in gives else None,
        labels=torch.zeros(num_rows, dtype=torch.long) if "labels" in gives else None,
        available=torch.ones(num_rows, channels, dtype=torch.bool) if "available" in gives else None,
        patient_id=names,
    )
