"""Peak memory and duration of a training run, from traced and from calibrated steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from menvae.capacity.calibration import NUM_SUBJECTS, Calibrated, Calibration, Needs
from menvae.capacity.variants import variant
from menvae.resources.trace import StepCost
from menvae.runs import micro_batches
from menvae.training.settings import TrainerSettings

_OF_SIZE = ("data.roi_size", "data.spacing_mm", "trainer.batch_size")


class Estimator:
    """Estimates variants of one configuration.

    For variants that differ only in box and batch, memory grows linearly with that of the tensors of a step, which
    `trace_step` follows, and the duration of a step with its roofline. The smallest and the largest calibrated variant
    of a kind give both lines.
    """

    def __init__(self, training: Mapping[str, Any], calibration: Calibration) -> None:
        """Args: training: plain values of ``conf/train.yaml``. calibration: measured variants of it."""
        self.training, self.calibration = training, calibration
        self._costs: dict[str, StepCost] = {}

    def cost(self, changes: Mapping[str, Any]) -> StepCost:
        """Trace a step of a variant; raises `UserError` for an invalid one."""
        key = repr(sorted(changes.items()))
        if key not in self._costs:
            self._costs[key] = traced(self.training, changes, self.calibration.device)
        return self._costs[key]

    def of(self, changes: Mapping[str, Any]) -> Needs:
        """Estimate a variant; raises `UserError` for an invalid one."""
        kind = sorted(self._kind(changes), key=lambda one: self._roofline(one.changes))
        small, large = kind[0], kind[-1]
        roofline, first, last = (self._roofline(one) for one in (changes, small.changes, large.changes))
        step = _on_line(roofline, (first, small.needs.seconds_per_step), (last, large.needs.seconds_per_step))
        passes = tuple(one.needs.seconds_per_validation_step for one in (small, large))
        validation = _on_line(roofline, (first, passes[0]), (last, passes[1]))
        return Needs(self._peak(changes, small, large), step, validation)

    def _peak(self, changes: Mapping[str, Any], small: Calibrated, large: Calibrated) -> float:
        tensors, first, last = (self.cost(one).peak_bytes for one in (changes, small.changes, large.changes))
        growth = (large.needs.peak_bytes - small.needs.peak_bytes) / (last - first) if last > first else 1.0
        return large.needs.peak_bytes + max(growth, 1.0) * (tensors - last)

    def _kind(self, changes: Mapping[str, Any]) -> list[Calibrated]:
        """Return the calibrated variants that differ in the fewest keys other than box and batch."""

        def differences(one: Calibrated) -> int:
            keys = {*changes, *one.changes} - set(_OF_SIZE)
            return sum(one.changes.get(key) != changes.get(key) for key in keys)

        fewest = min(map(differences, self.calibration.variants))
        return [one for one in self.calibration.variants if differences(one) == fewest]

    def _roofline(self, changes: Mapping[str, Any]) -> float:
        precision = str(changes.get("trainer.precision", "fp32"))
        gflops = self.calibration.gflops[precision]
        return self.cost(changes).roofline_seconds(1e9 * gflops, 1e9 * self.calibration.gb_per_s)


def _on_line(x: float, first: tuple[float, float], last: tuple[float, float]) -> float:
    """Return the value at x of the line through two points, or through 0 and the last if they do not rise.

    >>> _on_line(3.0, (1.0, 4.0), (2.0, 6.0)), _on_line(3.0, (2.0, 6.0), (2.0, 6.0))
    (8.0, 9.0)
    """
    if last[0] <= first[0] or last[1] <= first[1]:
        return last[1] * x / last[0]
    return first[1] + (last[1] - first[1]) * (x - first[0]) / (last[0] - first[0])


def traced(training: Mapping[str, Any], changes: Mapping[str, Any], device: str) -> StepCost:
    """Trace a step of a variant on a kind of device; raises `UserError` for an invalid variant."""
    experiment = variant(training, changes)
    settings: TrainerSettings = experiment.settings["trainer"]
    model, objective = experiment.build(NUM_SUBJECTS)
    return micro_batches.traced(experiment, model, objective, settings, settings.batch_size, device)
