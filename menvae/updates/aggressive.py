"""Aggressive initial training of the encoder, against posterior collapse."""

from __future__ import annotations

from typing import Annotated

from menvae.registry import Field, register
from menvae.types import LossReport, ModelOutput
from menvae.updates import Side, Stepper


@register("update", "aggressive", reference="He, Spokoyny, Neubig & Berg-Kirkpatrick 2019")
class Aggressive:
    """Update only the encoder in warm-up, but everything else at every (k + 1)-th batch; then update all jointly.

    Posteriors collapse when the encoder lags behind the decoder, so k encoder steps bring q(z|x) near the true
    posterior before each decoder step (algorithm 1). Every inner step uses its own batch, as in the paper, so the cost
    of an epoch does not change. Two deviations make a run depend on its position alone: the inner loop has a fixed
    length instead of ending when the bound stops rising, and warm-up ends after ``length`` instead of when the mutual
    information stops rising. Heads read z like a decoder and are updated with it.
    """

    def __init__(
        self, *, encoder_steps: Annotated[int, Field(ge=1)] = 5, length: Annotated[float, Field(ge=0.0)] = 3.0
    ) -> None:
        """Args: encoder_steps: k, encoder steps per decoder step. length: warm-up in reference epochs."""
        self.encoder_steps, self.length = encoder_steps, length

    def __call__(self, stepper: Stepper) -> tuple[ModelOutput, LossReport, float]:
        """Evaluate once and update the encoder, everything else, or both."""
        output, report = stepper.evaluate()
        only: Side | None = None
        if stepper.progress.epoch < self.length:
            only = "decoder" if stepper.step % (self.encoder_steps + 1) == self.encoder_steps else "encoder"
        return output, report, stepper.descend(report.total, only)
