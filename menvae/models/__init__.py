"""Models: a batch -> ModelOutput.

A model is constructed with a `Blueprint` by code, and its tunables by configuration. It makes its own encoder, decoders
and heads from the blueprint, because only the model knows the sizes that they need.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from menvae.latent import LatentLayout
from menvae.registry import Bound
from menvae.types import Batch, ModelOutput, Posterior


@dataclass(frozen=True)
class Blueprint:
    """What a model is made from.

    Attributes:
        in_channels: C, number of modalities or columns.
        size: (D, H, W) in voxels; nothing for rows of a table.
        parts: {configuration key: part that is ready to be called with sizes}: ``encoder``, ``decoder``, ...
        needs: what the terms of the objective require (see `Model.provides`); a model leaves out branches nobody needs.
        num_classes: that labels count; 0 without labels.
    """

    in_channels: int
    size: tuple[int, ...]
    parts: Mapping[str, Bound]
    needs: frozenset[str] = field(default_factory=frozenset)
    num_classes: int = 0


class Model(nn.Module):
    """What every model offers to objectives, observers and reports.

    Attributes:
        layout: the partitions of z.
        classifies: whether it predicts classes, as ``logits`` [B, K] among the extras.
        supervision: {partition: names of its targets}, for the partitions that have a trained head.
        encoder: what makes q(z|x).
        modality_dropout: probability that a modality is hidden from the encoder in training; one is always kept.
    """

    layout: LatentLayout
    classifies: bool = False
    supervision: Mapping[str, Sequence[str]]
    encoder: nn.Module
    modality_dropout: float = 0.0

    @classmethod
    def provides(cls, supervision: Mapping[str, Sequence[str]]) -> frozenset[str]:
        """Return the names of what the model can give beyond the posterior, for a supervision by partition."""
        raise NotImplementedError

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters that q(z|x) depends on; all others act on z."""
        return self.encoder.parameters()

    def encode(self, inputs: Tensor, available: Tensor | None = None) -> Posterior:
        """Inputs [B, C, D, H, W], modalities that count, bool [B, C] (None: all) -> q(z|x)."""
        raise NotImplementedError

    def decode(self, z: Tensor) -> Tensor:
        """Z [B, Z] -> reconstruction [B, C, D, H, W] in float32."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> ModelOutput:
        """Encode, sample (in training) or take the mean (in evaluation), decode, predict."""
        raise NotImplementedError
