"""One step of all parameters a batch."""

from __future__ import annotations

from menvae.registry import register
from menvae.types import LossReport, ModelOutput
from menvae.updates import Stepper


@register("update", "joint")
class Joint:
    """Encoder, decoder and heads descend together."""

    def __call__(self, stepper: Stepper) -> tuple[ModelOutput, LossReport, float]:
        """One evaluation, one step."""
        output, report = stepper.evaluate()
        return output, report, stepper.descend(report.total)
