"""A term that aligns the edges of the reconstruction with those of the image."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from menvae.collectives import sum_over_ranks
from menvae.registry import Field, register
from menvae.terms import Term, TermContext
from menvae.types import Batch, ModelOutput


@register("term", "gradient_difference", reference="Mathieu, Couprie & LeCun 2016 (gradient difference loss)")
class GradientDifference(Term):
    """Difference in magnitude between the gradients of the reconstruction and of the image.

    ``||x_i - x_i-1| - |y_i - y_i-1||^exponent``, with a third axis added to the two of the paper, and averaged, where
    the paper sums, over voxel pairs of an axis, axes, modalities and subjects.
    """

    scalars = ("gradient_difference",)
    requires = frozenset({"reconstruction"})

    def __init__(self, context: TermContext, *, exponent: Annotated[float, Field(ge=1.0)] = 1.0) -> None:
        """Choose the norm.

        Args:
            context: context of the run.
            exponent: alpha in the paper.
        """
        super().__init__()
        self.exponent = exponent

    def forward(self, batch: Batch, output: ModelOutput) -> dict[str, Tensor]:
        """Return ``gradient_difference``; missing modalities of a subject do not contribute."""
        image, drawn = batch.inputs.float(), output.reconstruction.float()
        counts = torch.ones(image.shape[:2], device=image.device)
        if batch.available is not None:
            missing = ~batch.available[..., None, None, None]  # may hold NaN, so a factor of 0 is not enough
            image, drawn = image.masked_fill(missing, 0.0), drawn.masked_fill(missing, 0.0)
            counts = batch.available.float()
        axes = range(2, image.ndim)
        errors = [
            (image.diff(dim=axis).abs() - drawn.diff(dim=axis).abs()).abs().pow(self.exponent).flatten(2).mean(dim=2)
            for axis in axes
        ]  # [B, C] each, and 0 where a modality is missing
        total, count = sum_over_ranks(torch.stack(errors).mean(dim=0).sum()), sum_over_ranks(counts.sum())
        return {"gradient_difference": total / count}
