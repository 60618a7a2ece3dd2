"""What a checkpoint holds beside tensors, and the running means of an epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class TrainingState:
    """What a checkpoint must hold beside tensors.

    Attributes:
        epoch: finished epochs.
        step: finished steps of the epoch that follows; all of them where its validation is missing.
        best_value: lowest validation objective at final weights among epochs that are not collapsed.
        best_epoch: where it was reached; 0 if nowhere yet.
        stopped: why an observer ended the run, or empty.
        pruned: whether that was to make room for better runs.
    """

    epoch: int = 0
    step: int = 0
    best_value: float = math.inf
    best_epoch: int = 0
    stopped: str = ""
    pruned: bool = False


class RunningMeans:
    """Means over steps, weighted by rows, without a synchronisation a step."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.rows: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor | float], rows: int) -> None:
        """Add the values of a step with ``rows`` rows."""
        for name, value in values.items():
            weighted = torch.as_tensor(value, dtype=torch.float64).detach() * rows
            self.sums[name] = self.sums[name] + weighted if name in self.sums else weighted
            self.rows[name] = self.rows.get(name, 0) + rows

    def averages(self) -> dict[str, float]:
        """Return the means; waits for the device."""
        return {name: (total / self.rows[name]).item() for name, total in self.sums.items()}


@dataclass
class BegunEpoch:
    """What this rank gathered of an epoch that is not finished; a checkpoint in its middle holds it.

    Attributes:
        means: of losses and gradient norm.
        observers: what each observer gathered, by the name of its class.
        seconds: training time so far.
        num_skipped_steps: those whose gradient overflowed in fp16.
    """

    means: RunningMeans = field(default_factory=RunningMeans)
    observers: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: float = 0.0
    num_skipped_steps: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return tensors on the CPU and plain values, for a checkpoint."""
        means = {"sums": {key: value.cpu() for key, value in self.means.sums.items()}, "rows": self.means.rows}
        more = {"seconds": self.seconds, "num_skipped_steps": self.num_skipped_steps}
        return {"means": means, "observers": self.observers, **more}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> BegunEpoch:
        """Take back what `as_dict` returned."""
        means = RunningMeans()
        means.sums, means.rows = dict(content["means"]["sums"]), dict(content["means"]["rows"])
        return cls(means, content["observers"], content["seconds"], content["num_skipped_steps"])
