"""SemiVAE: a partitioned latent space in which radiological features supervise some partitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from menvae.encoders import Encoder, Features, detached
from menvae.errors import UserError, about
from menvae.latent import LatentLayout
from menvae.models import Blueprint, Model
from menvae.registry import Bound, Field, bind, register
from menvae.types import Batch, ModelOutput, Posterior

PARTITIONS: Mapping[str, int | None] = {"vol": 24, "loc": 8, "shape": 12, "residual": None}
SUPERVISION: Mapping[str, Sequence[str]] = {
    "vol": ["vol_total", "vol_ncr", "vol_ed", "vol_et"],
    "loc": ["loc_x", "loc_y", "loc_z"],
    "shape": [
        "sphericity_total",
        "surface_area_total",
        "solidity_total",
        "aspect_xy_total",
        "sphericity_ncr",
        "surface_area_ncr",
    ],
}
HEADS: Mapping[str, Mapping[str, Any]] = {name: {"name": "mlp", "dropout": 0.1} for name in ("vol", "loc", "shape")}


@register("model", "semivae", reference="SemiVAE Run 6")
class SemiVAE(Model):
    """z = [vol | loc | shape | residual], one head per supervised partition, a decoder and an auxiliary decoder.

    A head reads only the coordinates of its partition. ``isolation`` sets what the supervision of a partition trains
    beyond its head: with ``none``, everything that its coordinates depend on. Detaching the other partitions first, as
    in the reports, gives the same function and gradient.
    """

    def __init__(
        self,
        blueprint: Blueprint,
        *,
        z_dim: int = 128,
        partitions: Mapping[str, int | None] = PARTITIONS,
        supervision: Mapping[str, Sequence[str]] = SUPERVISION,
        heads: Mapping[str, Mapping[str, Any]] = HEADS,
        inverse_heads: Mapping[str, Mapping[str, Any]] = HEADS,
        isolation: Literal["none", "latent", "trunk"] = "none",
        modality_dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0,
        auxiliary_partition: str = "residual",
        logvar_min: float = -6.0,
    ) -> None:
        """Build encoder, decoder, heads and auxiliary decoder.

        Args:
            blueprint: sizes and parts.
            z_dim: Z.
            partitions: name -> size, in the order of z; one size may be None, which takes the rest.
            supervision: partition -> names of the targets that its head predicts.
            heads: partition -> configuration of its head.
            inverse_heads: partition -> configuration of the head that recovers its coordinates from its predictions;
                built only if a term requires it.
            isolation: ``none``; ``latent``: no loss has a gradient from one partition to the partitions that it is
                conditioned on; ``trunk``: supervision trains only the partition's own branch of the encoder, and the
                other losses train the trunk. The branches are then evaluated twice, the trunk once.
            modality_dropout: probability of hiding each modality of a subject from the encoder in training; at least
                one available modality remains. The loss still reconstructs all of them.
            auxiliary_partition: partition that the auxiliary decoder reads; built only if a term requires it.
            logvar_min: lower bound of the posterior's log variance (-6 is a variance of 0.00248).

        Raises:
            UserError: the sizes do not fit, a partition does not exist, a supervised partition has no head, the
                configuration of a head is invalid even if unused, or ``isolation`` is ``latent`` and the encoder is
                not hierarchical.
        """
        super().__init__()
        self.layout = LatentLayout.from_config(z_dim, partitions)
        self.logvar_min, self.isolation, self.modality_dropout = logvar_min, isolation, modality_dropout
        self.supervision = {
            name: list(features)
            for name, features in supervision.items()
            if features and f"predictions.{name}" in blueprint.needs
        }
        for name in supervision:
            with about(f"model.supervision.{name}"):
                self.layout.bounds(name)
        bound_heads = _bound_heads(heads, "model.heads", self.layout)
        bound_inverse_heads = _bound_heads(inverse_heads, "model.inverse_heads", self.layout)
        for name in self.supervision:
            if name not in bound_heads:
                raise UserError(f"model.heads.{name}: partition '{name}' is supervised and needs a head, such as mlp")
        channels, size, parts = blueprint.in_channels, blueprint.size, blueprint.parts
        self.encoder: Encoder = parts["encoder"](channels, size, self.layout)
        if isolation == "latent" and not self.encoder.hierarchical:
            raise UserError(
                "model.isolation: 'latent' needs partitions that depend on each other, as with encoder=branched "
                f"encoder.hierarchical=true; those of encoder={parts['encoder'].part.name} are already isolated, "
                "so use model.isolation=none"
            )
        self.decoder = parts["decoder"](self.layout, channels, size)
        if self.decoder.output_size != size:
            raise UserError(
                f"decoder={parts['decoder'].part.name} outputs {list(self.decoder.output_size)}, but data.roi_size is "
                f"{list(size)}; use it as auxiliary_decoder"
            )
        self.heads = nn.ModuleDict(
            {
                name: _head(bound_heads[name], f"model.heads.{name}", self.layout.sizes[name], len(features))
                for name, features in self.supervision.items()
            }
        )
        self.auxiliary_partition = auxiliary_partition
        self.auxiliary_decoder: nn.Module | None = None
        if "auxiliary_reconstruction" in blueprint.needs:
            with about("model.auxiliary_partition"):
                own = self.layout.of([auxiliary_partition])
            self.auxiliary_decoder = parts["auxiliary_decoder"](own, channels, size)
        self.inverse_heads = self._inverse_heads(bound_inverse_heads, blueprint.needs)

    def _inverse_heads(self, bound: Mapping[str, Bound], needs: frozenset[str]) -> nn.ModuleDict:
        built: dict[str, nn.Module] = {}
        for name, size in self.layout.sizes.items():
            if f"cycle.{name}" not in needs:
                continue
            if name not in self.supervision:
                raise UserError(
                    f"the cycle of partition '{name}' needs its predictions; set loss.lambda_{name} above 0"
                )
            path = f"model.inverse_heads.{name}"
            if name not in bound:
                raise UserError(f"{path}: the cycle of partition '{name}' needs an inverse head, such as mlp")
            built[name] = _head(bound[name], path, len(self.supervision[name]), size)
        return nn.ModuleDict(built)

    @classmethod
    def provides(cls, supervision: Mapping[str, Sequence[str]]) -> frozenset[str]:
        """Reconstruction, auxiliary reconstruction, and predictions and cycle of every supervised partition."""
        supervised = [name for name, features in supervision.items() if features]
        both = {f"{what}.{name}" for name in supervised for what in ("predictions", "cycle")}
        return frozenset({"reconstruction", "auxiliary_reconstruction", *both})

    def encode(self, inputs: Tensor, available: Tensor | None = None) -> Posterior:
        """Inputs [B, C, D, H, W], available [B, C] -> q(z|x) in float32, log variance clamped from below."""
        return self._posterior(self.encoder.features(inputs, available))

    def _posterior(self, features: Features) -> Posterior:
        mean, logvar = self.encoder.posterior(features, isolated=self.isolation == "latent")
        return Posterior(mean.float(), logvar.float().clamp(min=self.logvar_min))

    def decode(self, z: Tensor) -> Tensor:
        """Z [B, Z] -> reconstruction [B, C, D, H, W] in float32."""
        reconstruction: Tensor = self.decoder(z)
        return reconstruction.float()

    def predict(self, mean: Tensor) -> dict[str, Tensor]:
        """Posterior mean [B, Z] -> {partition: predicted z-scored targets [B, F]}; a head sees only its own slice."""
        return {name: head(self.layout.select(mean, name)).float() for name, head in self.heads.items()}

    def recover(self, predictions: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Predictions {partition: [B, F]}, detached here -> {``cycle.<partition>``: recovered coordinates [B, P]}."""
        return {f"cycle.{name}": head(predictions[name].detach()).float() for name, head in self.inverse_heads.items()}

    def forward(self, batch: Batch) -> ModelOutput:
        """Encode, sample in training or take the mean in evaluation, decode, predict."""
        features = self.encoder.features(batch.inputs, self._seen(batch))
        posterior = self._posterior(features)
        z = posterior.sample() if self.training else posterior.mean
        supervised = posterior.mean
        if self.isolation == "trunk" and self.heads:
            supervised = self.encoder.posterior(detached(features), isolated=True)[0].float()
        predictions = self.predict(supervised)
        extras = self.recover(predictions)
        if self.auxiliary_decoder is not None:
            residual = self.layout.select(z, self.auxiliary_partition)
            extras["auxiliary_reconstruction"] = self.auxiliary_decoder(residual).float()
        reconstruction, drawn = self.decoder.draw(z)
        offered = {**{name: features[name] for name in self.encoder.offers}, **drawn}
        extras |= {name: values.float() for name, values in offered.items()}
        to_commit = {name: features[name].detach() for name in self.encoder.commits} if self.training else {}
        return ModelOutput(posterior, z, reconstruction.float(), predictions, extras, to_commit)

    def commit(self, output: ModelOutput) -> None:
        """Let the encoder update its buffers."""
        self.encoder.commit(output.to_commit)

    def _seen(self, batch: Batch) -> Tensor | None:
        """Return the modalities that the encoder sees, bool [B, C] or None for all, after dropout in training."""
        if not self.training or self.modality_dropout == 0.0:
            return batch.available
        draws = torch.rand(batch.inputs.shape[:2], device=batch.inputs.device)
        if batch.available is not None:
            draws = draws.masked_fill(~batch.available, -1.0)
        largest = draws == draws.amax(dim=1, keepdim=True)
        return (largest | (draws >= self.modality_dropout)) & (draws >= 0.0)


def _bound_heads(configs: Mapping[str, Mapping[str, Any]], path: str, layout: LatentLayout) -> dict[str, Bound]:
    """Check the configurations of all heads, so that a weight of 0 does not hide a mistake."""
    for name in configs:
        with about(f"{path}.{name}"):
            layout.bounds(name)
    return {name: bind("head", config, f"{path}.{name}") for name, config in configs.items()}


def _head(bound: Bound, path: str, num_inputs: int, num_outputs: int) -> nn.Module:
    with about(path):
        head: nn.Module = bound(num_inputs, num_outputs)
    return head
