"""The clock that schedules are written for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from menvae.registry import Field
from menvae.types import Progress


@dataclass(frozen=True, kw_only=True)
class Curriculum:
    """Keys of ``curriculum.*``.

    Attributes:
        reference_epochs: the number of epochs that the schedules are written for.
        scale: whether they are stretched to ``trainer.max_epochs``; otherwise an epoch is an epoch.
    """

    reference_epochs: Annotated[float, Field(gt=0.0)] = 15.0
    scale: bool = True

    def progress(self, epoch: float, max_epochs: int) -> Progress:
        """Return where a run of ``max_epochs`` stands after ``epoch`` (fractional) epochs.

        >>> Curriculum(reference_epochs=600).progress(10, max_epochs=20)
        Progress(epoch=300.0, total_epochs=600)
        """
        if not self.scale:
            return Progress(epoch, max_epochs)
        return Progress(epoch * self.reference_epochs / max_epochs, self.reference_epochs)
