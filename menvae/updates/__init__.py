"""Updates: turn the objective of a batch into optimiser steps."""

from __future__ import annotations

from typing import Literal, Protocol

from torch import Tensor

from menvae.types import LossReport, ModelOutput, Progress

Side = Literal["encoder", "decoder"]
"""``encoder``: the parameters of `menvae.models.Model.encoder_parameters`; ``decoder``: all others."""


class Stepper(Protocol):
    """Interface of the training loop to an update, for one batch."""

    @property
    def progress(self) -> Progress:
        """Current position in training."""

    @property
    def step(self) -> int:
        """Batches completed since the start of the run; equal after a resume and on all ranks."""

    def evaluate(self) -> tuple[ModelOutput, LossReport]:
        """Run the model and the objective on the batch, with gradients."""

    def descend(self, total: Tensor, only: Side | None = None) -> float:
        """Backpropagate, check that gradients are finite, clip, step; return the gradient's L2 norm before clipping.

        Args:
            total: scalar to minimise.
            only: parameters to update and to include in the norm; None: all.
        """


class Update(Protocol):
    """Turns one batch into optimiser steps."""

    def __call__(self, stepper: Stepper) -> tuple[ModelOutput, LossReport, float]:
        """Return the last output, its loss report and the last gradient norm."""
