"""VAE of the rows of a table, optionally with a classifier and with inputs hidden from the encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from menvae.encoders import Encoder
from menvae.errors import UserError, about
from menvae.latent import LatentLayout
from menvae.models import Blueprint, Model
from menvae.registry import Field, bind, register
from menvae.types import Batch, ModelOutput, Posterior

PARTITIONS: Mapping[str, int | None] = {"residual": None}
CLASSIFIER: Mapping[str, Any] = {"name": "classifier", "width": 64, "dropout": 0.3}


@register("model", "tabular_vae", reference="lithology design reports; Kingma et al. 2014 (M2 without its marginals)")
class TabularVAE(Model):
    """Encoder and decoder around one Gaussian z, and a classifier on its mean if the loss has a term for it."""

    def __init__(
        self,
        blueprint: Blueprint,
        *,
        z_dim: int = 10,
        partitions: Mapping[str, int | None] = PARTITIONS,
        classifier: Mapping[str, Any] = CLASSIFIER,
        input_mask: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0,
        logvar_min: float = -6.0,
    ) -> None:
        """Build encoder, decoder and classifier.

        Args:
            blueprint: sizes and parts.
            z_dim: Z.
            partitions: name -> size; the gate of active units reads ``residual``.
            classifier: configuration of the head that predicts classes; always checked, built only if the loss needs
                ``logits``.
            input_mask: probability of hiding each value from the encoder in training, drawn anew at every step; 0, the
                mean, replaces it. Evaluation hides nothing.
            logvar_min: lower bound of the posterior's log variance (-6 is a variance of 0.00248).

        Raises:
            UserError: the sizes do not fit, the classifier has fewer than 2 classes, or the loss needs hidden values
                but ``input_mask`` is 0.
        """
        super().__init__()
        self.layout = LatentLayout.from_config(z_dim, partitions)
        self.logvar_min, self.input_mask = logvar_min, input_mask
        self.supervision: Mapping[str, Sequence[str]] = {}
        channels, size, parts = blueprint.in_channels, blueprint.size, blueprint.parts
        self.encoder: Encoder = parts["encoder"](channels, size, self.layout)
        self.decoder = parts["decoder"](self.layout, channels, size)
        self.hides = "hidden" in blueprint.needs
        if self.hides and not input_mask:
            raise UserError("model.input_mask: 0 is not allowed with a loss of hidden values; it must be above 0")
        bound_classifier = bind("head", classifier, "model.classifier")
        self.classifier: nn.Module | None = None
        if "logits" in blueprint.needs:
            if blueprint.num_classes < 2:
                raise UserError(
                    "model.classifier: the data have no labels; set data.label, or the weight of the term to 0"
                )
            with about("model.classifier"):
                self.classifier = bound_classifier(z_dim, blueprint.num_classes)
        self.classifies = self.classifier is not None

    @classmethod
    def provides(cls, supervision: Mapping[str, Sequence[str]]) -> frozenset[str]:
        """Reconstruction, logits of the classes, and the mask of hidden values."""
        return frozenset({"reconstruction", "logits", "hidden"})

    def encode(self, inputs: Tensor, available: Tensor | None = None) -> Posterior:
        """Inputs [B, F], available values, bool [B, F] (None: all) -> q(z|x), log variance clamped from below."""
        mean, logvar = self.encoder(inputs, available)
        return Posterior(mean.float(), logvar.float().clamp(min=self.logvar_min))

    def decode(self, z: Tensor) -> Tensor:
        """Z [B, Z] -> reconstruction [B, F] in float32."""
        reconstruction: Tensor = self.decoder(z)
        return reconstruction.float()

    def forward(self, batch: Batch) -> ModelOutput:
        """Hide values in training, encode, sample in training or take the mean in evaluation, decode, classify."""
        extras: dict[str, Tensor] = {}
        available = batch.available
        hidden: Tensor | None = None
        if self.training and self.input_mask:
            hidden = torch.rand_like(batch.inputs, dtype=torch.float32) < self.input_mask
            available = ~hidden if available is None else available & ~hidden
        posterior = self.encode(batch.inputs, available)
        if self.hides:
            extras["hidden"] = torch.zeros_like(batch.inputs) if hidden is None else hidden.float()
        z = posterior.sample() if self.training else posterior.mean
        if self.classifier is not None:
            extras["logits"] = self.classifier(posterior.mean).float()
        return ModelOutput(posterior, z, self.decode(z), {}, extras)
