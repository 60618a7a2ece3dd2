"""Peak memory and duration of a training run, from traced and from calibrated steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from menvae.capacity.calibration import Calibrated, Calibration
from menvae.capacity.variants import variant
from menvae.resources.trace import StepCost, TracedSetting, trace_step, without_values
from menvae.training.settings import TrainerSettings

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
_SUBJECTS = 100


@dataclass(frozen=True)
class Estimate:
    """What a run needs.

    Attributes:
        peak_bytes: peak memory of the training process; on a GPU, of its memory.
        seconds_per_step: duration of a training step.
        seconds_per_validation_step: duration of a validation step.
    """

    peak_bytes: float
    seconds_per_step: float
    seconds_per_validation_step: float

    def seconds(self, num_training: int, num_validation: int, batch_size: int, epochs: int) -> float:
        """Return the duration of training and validation.

        Args:
            num_training: training subjects.
            num_validation: validation subjects.
            batch_size: subjects per step.
            epochs: number of epochs, each with a validation.
        """
        steps, passes = math.ceil(num_training / batch_size), math.ceil(num_validation / batch_size)
        return epochs * (steps * self.seconds_per_step + passes * self.seconds_per_validation_step)


class Estimator:
    """Estimates variants of one configuration.

    The memory of a process is that of its tensors, which `trace_step` follows, and a constant for everything else, such
    as imported modules: the difference between measured and traced peak of the smallest calibrated variant. A step
    takes the time of the calibrated variant nearest to it, times the ratio of their rooflines.
    """

    def __init__(self, training: Mapping[str, Any], calibration: Calibration) -> None:
        """Args: training: plain values of ``conf/train.yaml``. calibration: measured variants of it."""
        self.training, self.calibration = training, calibration
        self._costs: dict[str, StepCost] = {}
        first = calibration.variants[0]
        self.constant_bytes = first.peak_bytes - self.cost(first.changes).peak_bytes

    def cost(self, changes: Mapping[str, Any]) -> StepCost:
        """Trace a step of a variant; raises `UserError` for an invalid one."""
        key = repr(sorted(changes.items()))
        if key not in self._costs:
            self._costs[key] = traced(self.training, changes, self.calibration.device)
        return self._costs[key]

    def of(self, changes: Mapping[str, Any]) -> Estimate:
        """Estimate a variant; raises `UserError` for an invalid one."""
        cost = self.cost(changes)
        near = self._nearest(changes)
        ratio = self._roofline(changes) / self._roofline(near.changes)
        peak = cost.peak_bytes + self.constant_bytes
        return Estimate(peak, near.seconds_per_step * ratio, near.seconds_per_validation_step * ratio)

    def _nearest(self, changes: Mapping[str, Any]) -> Calibrated:
        """Return the calibrated variant that differs in the fewest keys; of several, the last, which is the largest."""

        def agreement(one: Calibrated) -> int:
            return -sum(one.changes.get(key) != changes.get(key) for key in {*changes, *one.changes})

        best = max(map(agreement, self.calibration.variants))
        return [one for one in self.calibration.variants if agreement(one) == best][-1]

    def _roofline(self, changes: Mapping[str, Any]) -> float:
        precision = str(changes.get("trainer.precision", "fp32"))
        gflops = self.calibration.gflops[precision]
        return self.cost(changes).roofline_seconds(1e9 * gflops, 1e9 * self.calibration.gb_per_s)


def traced(training: Mapping[str, Any], changes: Mapping[str, Any], device: str) -> StepCost:
    """Trace a step of a variant on a kind of device; raises `UserError` for an invalid variant."""
    experiment = variant(training, changes)
    settings: TrainerSettings = experiment.settings["trainer"]
    source = experiment.source
    batch = without_values(source.size, len(source.channels), settings.batch_size, experiment.supervision, source.gives)
    model, objective = experiment.build(_SUBJECTS)
    setting = TracedSetting(device, _AUTOCAST.get(settings.precision), settings.channels_last)
    middle = experiment.positions(3)[1]
    return trace_step(model, objective, experiment.parts["optimizer"], batch, middle, setting)
