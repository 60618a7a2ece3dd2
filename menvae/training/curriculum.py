"""Reference epochs, the time unit of schedules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from menvae.registry import Field
from menvae.types import Progress


@dataclass(frozen=True, kw_only=True)
class Curriculum:
    """Keys of ``curriculum.*``.

    Attributes:
        reference_epochs: length of the run that the schedules are written for.
        scale: stretch the schedules to ``trainer.max_epochs``; otherwise a reference epoch is one epoch.
    """

    reference_epochs: Annotated[float, Field(gt=0.0)] = 15.0
    scale: bool = True

    def progress(self, epoch: float, max_epochs: int) -> Progress:
        """Return the position in reference epochs of a run of ``max_epochs`` after ``epoch`` (fractional) epochs.

        >>> Curriculum(reference_epochs=600).progress(10, max_epochs=20)
        Progress(epoch=300.0, total_epochs=600)
        """
        if not self.scale:
            return Progress(epoch, max_epochs)
        return Progress(epoch * self.reference_epochs / max_epochs, self.reference_epochs)
