"""Reconstruction of a small cube, or of the row of a table, by the auxiliary decoder."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import interpolate

from menvae.registry import register
from menvae.terms import Term, TermContext
from menvae.terms.reconstruction import mean_squared_error
from menvae.types import Batch, ModelOutput


@register("term", "aux_recon", reference="SemiVAE Run 6")
class AuxiliaryReconstruction(Term):
    """Mean squared error between the auxiliary reconstruction and the inputs, averaged down to its size."""

    scalars = ("aux_recon",)
    requires = frozenset({"auxiliary_reconstruction"})
    unit = "mean_squared_error"

    def __init__(self, context: TermContext) -> None:
        """No tunables."""
        super().__init__()

    def forward(self, batch: Batch, output: ModelOutput) -> dict[str, Tensor]:
        """Return ``aux_recon``."""
        small = output.extras["auxiliary_reconstruction"]
        target = batch.inputs.float()
        if small.shape != target.shape:  # the rows of a table are not resized
            target = interpolate(target, size=small.shape[2:], mode="area")
        return {"aux_recon": mean_squared_error(batch, small, target)}
