"""Aggressive training of the encoder at the beginning, against posterior collapse."""

from __future__ import annotations

from typing import Annotated

from menvae.registry import Field, register
from menvae.types import LossReport, ModelOutput
from menvae.updates import Side, Stepper


@register("update", "aggressive", reference="He, Spokoyny, Neubig & Berg-Kirkpatrick 2019")
class Aggressive:
    """In warm-up only the encoder moves, except at every (k + 1)-th batch, where all but the encoder does; then joint.

    A posterior collapses where the encoder lags behind the decoder; so it is brought near the true posterior before
    each step of the decoder (algorithm 1). Every inner step has a batch of its own, as in the paper, so that an epoch
    costs what it costs elsewhere. Two deviations make a run depend on its position alone: the inner loop has a fixed
    length instead of ending when the bound stops rising, and warm-up ends after ``length`` instead of when the mutual
    information does. Heads read z like a decoder, and move with it.
    """

    def __init__(
        self, *, encoder_steps: Annotated[int, Field(ge=1)] = 5, length: Annotated[float, Field(ge=0.0)] = 3.0
    ) -> None:
        """Args: encoder_steps: k. length: of the warm-up in reference epochs."""
        self.encoder_steps, self.length = encoder_steps, length

    def __call__(self, stepper: Stepper) -> tuple[ModelOutput, LossReport, float]:
        """One evaluation, one step of the encoder, of all else, or of both."""
        output, report = stepper.evaluate()
        only: Side | None = None
        if stepper.progress.epoch < self.length:
            only = "decoder" if stepper.step % (self.encoder_steps + 1) == self.encoder_steps else "encoder"
        return output, report, stepper.descend(report.total, only)
