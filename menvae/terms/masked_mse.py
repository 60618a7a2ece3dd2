"""Squared error of the values hidden from the encoder."""

from __future__ import annotations

from torch import Tensor

from menvae.collectives import sum_over_ranks
from menvae.registry import register
from menvae.terms import Term, TermContext
from menvae.terms.reconstruction import present
from menvae.types import Batch, ModelOutput


@register("term", "masked_mse", reference="lithology design reports; Vincent et al. 2008")
class MaskedSquaredError(Term):
    """Mean squared error over the hidden values, which the model must infer from the visible ones.

    0 if nothing is hidden, as in validation.
    """

    scalars = ("masked",)
    requires = frozenset({"reconstruction", "hidden"})
    unit = "mean_squared_error"

    def __init__(self, context: TermContext) -> None:
        """Args: context: run context."""
        super().__init__()

    def forward(self, batch: Batch, output: ModelOutput) -> dict[str, Tensor]:
        """Return ``masked``."""
        hidden = output.extras["hidden"].float()
        differences = output.reconstruction.float() - batch.inputs.float()
        available = present(batch, differences)
        if available is not None:
            hidden, differences = hidden * available, differences.masked_fill(~available, 0.0)
        errors = differences.square() * hidden
        return {"masked": sum_over_ranks(errors.sum()) / sum_over_ranks(hidden.sum()).clamp(min=1.0)}
