"""Updates: how optimiser steps follow from an objective. The training loop has no branch for it."""

from __future__ import annotations

from typing import Literal, Protocol

from torch import Tensor

from menvae.types import LossReport, ModelOutput, Progress

Side = Literal["encoder", "decoder"]
"""``encoder``: what q(z|x) depends on, see `menvae.models.Model.encoder_parameters`; ``decoder``: everything else."""


class Stepper(Protocol):
    """What the loop lends to an update for one batch."""

    @property
    def progress(self) -> Progress:
        """Where training stands."""

    @property
    def step(self) -> int:
        """Batches done since the beginning of the run: the same after a resume, and on all ranks."""

    def evaluate(self) -> tuple[ModelOutput, LossReport]:
        """Run the model and the objective on the batch, with gradient."""

    def descend(self, total: Tensor, only: Side | None = None) -> float:
        """Backward, check that all is finite, clip, step; return the gradient's L2 norm before clipping.

        Args:
            total: what is minimised.
            only: which parameters move, and count for the norm; None: all.
        """


class Update(Protocol):
    """Turns one batch into optimiser steps."""

    def __call__(self, stepper: Stepper) -> tuple[ModelOutput, LossReport, float]:
        """Return the last output, its report, and the last gradient norm."""
