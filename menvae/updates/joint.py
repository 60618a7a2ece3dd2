"""One step of all parameters per batch."""

from __future__ import annotations

from menvae.registry import register
from menvae.types import LossReport, ModelOutput
from menvae.updates import Stepper


@register("update", "joint")
class Joint:
    """Update encoder, decoder and heads together."""

    def __call__(self, stepper: Stepper) -> tuple[ModelOutput, LossReport, float]:
        """Evaluate once and take one step."""
        output, report = stepper.evaluate()
        return output, report, stepper.descend(report.total)
