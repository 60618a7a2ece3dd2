"""Where the time of training steps goes: forward pass, loss, backward pass, optimiser, data, and the rest."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Self

import torch
from torch import Tensor, nn

from menvae.training.passes import Passes
from menvae.types import Batch, ModelOutput

PHASES: Final = ("forward", "loss", "backward", "optimizer", "data", "overhead")
"""``data``: waiting for the loader; ``overhead``: everything else, such as copies, checks and clipping."""


@dataclass
class PhaseClock:
    """Seconds of each phase of the steps that it watches.

    On a GPU, each phase ends with a wait for the device, so that its work counts where it belongs; a step that is
    watched is therefore slower than one that is not.

    Attributes:
        device: device of the model.
        seconds: phase -> seconds of each step.
        totals: seconds of each step.
    """

    device: torch.device
    seconds: dict[str, list[float]] = field(default_factory=lambda: {phase: [] for phase in PHASES})
    totals: list[float] = field(default_factory=list)
    _now: dict[str, float] = field(default_factory=dict)
    _since: dict[str, float] = field(default_factory=dict)

    def attach(self, objective: nn.Module, optimizer: torch.optim.Optimizer) -> list[Any]:
        """Watch loss and optimiser; returns handles, whose ``remove`` ends it."""
        return [
            objective.register_forward_pre_hook(lambda *_: self.begin("loss")),
            objective.register_forward_hook(lambda *_: self.end("loss")),
            optimizer.register_step_pre_hook(lambda *_: self.begin("optimizer")),
            optimizer.register_step_post_hook(lambda *_: self.end("optimizer")),
        ]

    def begin(self, phase: str) -> None:
        """Begin a phase."""
        self._since[phase] = self._time()

    def end(self, phase: str) -> None:
        """End a phase; several of one step are added."""
        self._now[phase] = self._now.get(phase, 0.0) + self._time() - self._since[phase]

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Time a block as a phase."""
        self.begin(phase)
        try:
            yield
        finally:
            self.end(phase)

    def watched(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield batches; a step begins when the next batch is asked for, and ends when the one after it is."""
        iterator = iter(batches)
        while True:
            self._now = {}
            started = self._time()
            with self.during("data"):
                batch = next(iterator, None)
            if batch is None:
                return
            yield batch
            total = self._time() - started
            self._now["overhead"] = total - sum(self._now.values())
            self.totals.append(total)
            for phase in PHASES:
                self.seconds[phase].append(self._now.get(phase, 0.0))

    def shares(self) -> dict[str, float]:
        """Return phase -> its share of the time of all steps."""
        total = sum(self.totals)
        return {phase: sum(values) / total if total else 0.0 for phase, values in self.seconds.items()}

    def _time(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


class TimedPasses:
    """Passes whose time a clock takes."""

    def __init__(self, passes: Passes, clock: PhaseClock) -> None:
        """Args: passes: computes. clock: takes the time."""
        self.passes, self.clock = passes, clock

    def forward(self, batch: Batch) -> ModelOutput:
        """See `Passes`."""
        with self.clock.during("forward"):
            return self.passes.forward(batch)

    def backward(self, loss: Tensor) -> None:
        """See `Passes`."""
        with self.clock.during("backward"):
            self.passes.backward(loss)


@dataclass(frozen=True)
class StepProfile:
    """Where the time of a step goes, as ``profile.json`` stores it.

    Attributes:
        steps: number of measured steps.
        seconds_per_step: their mean duration.
        seconds: phase -> seconds of a step.
        operators: the most expensive operators: name -> seconds of a step.
        device: where it was measured.
    """

    steps: int
    seconds_per_step: float
    seconds: Mapping[str, float]
    operators: Mapping[str, float]
    device: str

    @classmethod
    def of(cls, clock: PhaseClock, operators: Mapping[str, float]) -> Self:
        """Return the profile of what a clock has measured."""
        num = len(clock.totals)
        mean = {phase: sum(values) / num for phase, values in clock.seconds.items()}
        return cls(num, sum(clock.totals) / num, mean, operators, str(clock.device))
