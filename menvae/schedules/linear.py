"""A linear warm-up, with an optional linear decay much later."""

from __future__ import annotations

from typing import Annotated

from menvae.registry import Field, register
from menvae.types import Progress


@register("schedule", "linear", reference="SemiVAE Run 6")
class Linear:
    """``initial`` until ``start``, linear to 1 over ``length``; optionally linear to ``decay_to`` afterwards."""

    def __init__(
        self,
        *,
        start: Annotated[float, Field(ge=0.0)] = 0.0,
        length: Annotated[float, Field(ge=0.0)] = 0.0,
        initial: Annotated[float, Field(ge=0.0)] = 0.0,
        decay_start: Annotated[float, Field(ge=0.0)] | None = None,
        decay_length: Annotated[float, Field(ge=0.0)] = 0.0,
        decay_to: Annotated[float, Field(ge=0.0)] = 1.0,
    ) -> None:
        """Set the curve; positions and lengths are in reference epochs.

        Args:
            start: last epoch at which the factor is ``initial``.
            length: length of the rise; 0: a step.
            initial: factor before the rise.
            decay_start: start of the decay; None: no decay.
            decay_length: length of the decay; 0: a step.
            decay_to: factor after the decay.
        """
        self.start, self.length, self.initial = start, length, initial
        self.decay_start, self.decay_length, self.decay_to = decay_start, decay_length, decay_to

    def __call__(self, progress: Progress) -> float:
        """Return the factor at ``progress``."""
        factor = self.initial + (1.0 - self.initial) * ramp(progress.epoch, self.start, self.length)
        if self.decay_start is None:
            return factor
        return factor * (1.0 - (1.0 - self.decay_to) * ramp(progress.epoch, self.decay_start, self.decay_length))


def ramp(epoch: float, start: float, length: float) -> float:
    """Return 0 up to ``start``, 1 from ``start + length`` on, and interpolate linearly between.

    >>> [ramp(epoch, 30, 40) for epoch in (30, 50, 70, 400)]
    [0.0, 0.5, 1.0, 1.0]
    """
    if length == 0.0:
        return float(epoch >= start)
    return min(1.0, max(0.0, (epoch - start) / length))
