"""Training state in a checkpoint, and the running means of an epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass
class TrainingState:
    """Position and outcome of training, as stored in a checkpoint.

    Attributes:
        epoch: number of finished epochs.
        step: finished steps of the next epoch; all of them if only its validation is missing.
        best_value: lowest validation objective at final weights among epochs without collapse.
        best_epoch: epoch of ``best_value``; 0 if none yet.
        stopped: why an observer ended the run, or empty.
        pruned: whether the run was pruned in favour of better runs.
    """

    epoch: int = 0
    step: int = 0
    best_value: float = math.inf
    best_epoch: int = 0
    stopped: str = ""
    pruned: bool = False


class RunningMeans:
    """Means over steps in double precision, weighted by rows; adding a tensor does not wait for its device."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor | float] = {}
        self.rows: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor | float], rows: int) -> None:
        """Add the values of a step with ``rows`` rows."""
        for name, value in values.items():
            weighted = (value if isinstance(value, float) else value.detach().double()) * rows
            self.sums[name] = self.sums[name] + weighted if name in self.sums else weighted
            self.rows[name] = self.rows.get(name, 0) + rows

    def averages(self) -> dict[str, float]:
        """Return the means; synchronises with the device."""
        return {name: float(total / self.rows[name]) for name, total in self.sums.items()}


@dataclass
class BegunEpoch:
    """State of an unfinished epoch on this rank, stored in a checkpoint in the middle of an epoch.

    Attributes:
        means: running means of losses and gradient norm.
        observers: state of each observer, by the name of its class.
        seconds: training time so far.
        num_skipped_steps: steps skipped because the fp16 gradient overflowed.
    """

    means: RunningMeans = field(default_factory=RunningMeans)
    observers: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: float = 0.0
    num_skipped_steps: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for a checkpoint."""
        means = {"sums": {key: float(value) for key, value in self.means.sums.items()}, "rows": self.means.rows}
        more = {"seconds": self.seconds, "num_skipped_steps": self.num_skipped_steps}
        return {"means": means, "observers": self.observers, **more}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> BegunEpoch:
        """Restore the output of `as_dict`, with sums in tensors if an earlier version wrote them.

        Raises:
            KeyError: a key is missing.
            TypeError: a value has another type.
        """
        means = RunningMeans()
        means.sums = {key: float(value) for key, value in content["means"]["sums"].items()}
        means.rows = dict(content["means"]["rows"])
        begun = cls(means, dict(content["observers"]), content["seconds"], content["num_skipped_steps"])
        numbers = (begun.seconds, begun.num_skipped_steps, *means.rows.values())
        if not all(isinstance(number, int | float) for number in numbers):
            raise TypeError("its unfinished epoch has something else than numbers")
        if means.sums.keys() != means.rows.keys():
            raise TypeError("its unfinished epoch has other means than rows")
        if not all(isinstance(state, dict) for state in begun.observers.values()):
            raise TypeError("its observers have something else than states")
        return begun
