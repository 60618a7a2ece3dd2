"""Updates: how optimiser steps follow from an objective. The training loop has no branch for it."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from menvae.types import LossReport, ModelOutput


class Stepper(Protocol):
    """What the loop lends to an update for one batch."""

    def evaluate(self) -> tuple[ModelOutput, LossReport]:
        """Run the model and the objective on the batch, with gradient."""

    def descend(self, total: Tensor) -> float:
        """Backward, check that all is finite, clip, step; return the gradient's L2 norm before clipping."""


class Update(Protocol):
    """Turns one batch into optimiser steps."""

    def __call__(self, stepper: Stepper) -> tuple[ModelOutput, LossReport, float]:
        """Return the last output, its report, and the last gradient norm."""
