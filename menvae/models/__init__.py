"""Models: a batch -> ModelOutput.

Code passes a `Blueprint` to the constructor; the configuration passes the tunables. A model builds its own encoder,
decoders and heads from the blueprint, because only the model knows the sizes that they need.
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
    """Everything needed to build a model.

    Attributes:
        in_channels: C, number of modalities or columns.
        size: (D, H, W) in voxels; empty for the rows of a table.
        parts: {configuration key: part to be called with sizes}: ``encoder``, ``decoder``, ...
        needs: outputs that the terms of the objective require (see `Model.provides`); a model omits unused branches.
        num_classes: number of classes; 0 without labels.
    """

    in_channels: int
    size: tuple[int, ...]
    parts: Mapping[str, Bound]
    needs: frozenset[str] = field(default_factory=frozenset)
    num_classes: int = 0


class Model(nn.Module):
    """Base class of models.

    Attributes:
        layout: partitions of z.
        classifies: whether it predicts classes, as ``logits`` [B, K] among the extras.
        supervision: {partition: names of its targets}, for the partitions with a trained head.
        encoder: module that computes q(z|x).
        modality_dropout: probability that a modality is hidden from the encoder in training; one is always kept.
    """

    layout: LatentLayout
    classifies: bool = False
    supervision: Mapping[str, Sequence[str]]
    encoder: nn.Module
    modality_dropout: float = 0.0

    @classmethod
    def provides(cls, supervision: Mapping[str, Sequence[str]]) -> frozenset[str]:
        """Return the names of the outputs beyond the posterior that the model can provide with this supervision."""
        raise NotImplementedError

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters that q(z|x) depends on; the others act on z."""
        return self.encoder.parameters()

    def encode(self, inputs: Tensor, available: Tensor | None = None) -> Posterior:
        """Inputs [B, C, D, H, W], available modalities, bool [B, C] (None: all) -> q(z|x)."""
        raise NotImplementedError

    def decode(self, z: Tensor) -> Tensor:
        """Z [B, Z] -> reconstruction [B, C, D, H, W] in float32."""
        raise NotImplementedError

    def predict(self, mean: Tensor) -> dict[str, Tensor]:
        """Z [B, Z] -> {partition: predicted z-scored targets [B, F]}, as `forward` predicts from the posterior mean.

        The default predicts nothing.
        """
        return {}

    def commit(self, output: ModelOutput) -> None:
        """Update buffers from the output of a training batch; called once per optimiser step, never in validation."""

    def forward(self, batch: Batch) -> ModelOutput:
        """Encode, sample in training or take the mean in evaluation, decode, predict."""
        raise NotImplementedError
