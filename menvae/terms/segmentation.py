"""Supervision of label maps by the masks of training subjects."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from menvae.collectives import sum_over_ranks
from menvae.registry import register
from menvae.statistics.segmentation import LabelSums, dice, label_sums
from menvae.terms import Term, TermContext
from menvae.types import Batch, ModelOutput

_MAKERS: Mapping[str, str] = MappingProxyType(
    {"segmentation": "encoder=segmenting", "drawn_segmentation": "decoder=composite"}
)


@register("term", "segmentation", reference="Isensee et al. 2021 (nnU-Net)")
class Segmentation(Term):
    """Cross-entropy plus 1 - Dice of a label map; the scalar is named after the map.

    Both are those of the joint batch of all ranks; Dice is averaged over the labels of the tumour.
    """

    batch_requires = frozenset({"mask"})

    def __init__(
        self, context: TermContext, *, output: Literal["segmentation", "drawn_segmentation"] = "segmentation"
    ) -> None:
        """Choose the label map.

        Args:
            context: run context.
            output: ``segmentation``, which an encoder makes of the image, or ``drawn_segmentation``, which a decoder
                makes of z.
        """
        super().__init__()
        self.output = output
        self.scalars = (output,)
        self.requires = frozenset({output})
        self.remedies = {output: _MAKERS[output]}

    def forward(self, batch: Batch, output: ModelOutput) -> dict[str, Tensor]:
        """Return the scalar and, as a diagnostic, the mean Dice coefficient."""
        assert batch.mask is not None, "experiments reject terms whose batch_requires the data do not provide"
        sums = label_sums(output.extras[self.output], batch.mask[:, 0].long())
        sums = LabelSums(*sum_over_ranks(torch.stack(sums)))
        mean_dice = dice(sums).mean()
        loss = sums.surprise.sum() / sums.true.sum() + 1.0 - mean_dice
        return {self.output: loss, f"{self.output}_dice": mean_dice.detach()}
