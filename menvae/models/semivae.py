"""SemiVAE: a partitioned latent space of which some partitions are supervised by radiological features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from menvae.errors import UserError, nearest
from menvae.latent import LatentLayout
from menvae.models import Blueprint, Model
from menvae.registry import bind, register
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
    """z = [vol | loc | shape | residual]: a head for each supervised partition, a decoder, an auxiliary decoder."""

    def __init__(
        self,
        blueprint: Blueprint,
        *,
        z_dim: int = 128,
        partitions: Mapping[str, int | None] = PARTITIONS,
        supervision: Mapping[str, Sequence[str]] = SUPERVISION,
        heads: Mapping[str, Mapping[str, Any]] = HEADS,
        auxiliary_partition: str = "residual",
        logvar_min: float = -6.0,
    ) -> None:
        """Build encoder, decoder, heads and auxiliary decoder.

        Args:
            blueprint: sizes and parts.
            z_dim: Z.
            partitions: name -> size, in the order of z; one may be None, which takes the rest.
            supervision: partition -> names of the targets that its head predicts.
            heads: partition -> configuration of its head.
            auxiliary_partition: the partition that the auxiliary decoder draws from.
            logvar_min: floor of the posterior's log variance (-6 is a variance of 0.00248).

        Raises:
            UserError: sizes that do not fit, or a partition that is supervised but has no head or does not exist.
        """
        super().__init__()
        self.layout = LatentLayout.from_config(z_dim, partitions)
        self.logvar_min = logvar_min
        self.supervision = {
            name: list(features)
            for name, features in supervision.items()
            if features and f"predictions.{name}" in blueprint.needs
        }
        for name in (*supervision, auxiliary_partition):
            if name not in self.layout.sizes:
                raise UserError(f"model: partition '{name}' does not exist; {nearest(name, self.layout.sizes)}")
        for name in self.supervision:
            if name not in heads:
                raise UserError(f"model.heads.{name}: partition '{name}' is supervised and needs a head, such as mlp")
        channels, size, parts = blueprint.in_channels, blueprint.size, blueprint.parts
        self.encoder = parts["encoder"](channels, size, z_dim)
        self.decoder = parts["decoder"](z_dim, channels, size)
        if self.decoder.output_size != size:
            raise UserError(
                f"decoder={parts['decoder'].part.name} draws {list(self.decoder.output_size)}, not data.roi_size="
                f"{list(size)}; it is an auxiliary_decoder"
            )
        self.heads = nn.ModuleDict(
            {
                name: bind("head", heads[name], f"model.heads.{name}")(self.layout.sizes[name], len(features))
                for name, features in self.supervision.items()
            }
        )
        self.auxiliary_partition = auxiliary_partition
        self.auxiliary_decoder: nn.Module | None = None
        if "auxiliary_reconstruction" in blueprint.needs:
            num_latents = self.layout.sizes[auxiliary_partition]
            self.auxiliary_decoder = parts["auxiliary_decoder"](num_latents, channels, size)

    @classmethod
    def provides(cls, supervision: Mapping[str, Sequence[str]]) -> frozenset[str]:
        """Reconstruction, auxiliary reconstruction, and predictions of every supervised partition."""
        predictions = {f"predictions.{name}" for name, features in supervision.items() if features}
        return frozenset({"reconstruction", "auxiliary_reconstruction", *predictions})

    def encode(self, inputs: Tensor) -> Posterior:
        """Inputs [B, C, D, H, W] -> q(z|x), float32, log variance clamped from below."""
        mean, logvar = self.encoder(inputs)
        return Posterior(mean.float(), logvar.float().clamp(min=self.logvar_min))

    def decode(self, z: Tensor) -> Tensor:
        """Z [B, Z] -> reconstruction [B, C, D, H, W] in float32."""
        reconstruction: Tensor = self.decoder(z)
        return reconstruction.float()

    def predict(self, mean: Tensor) -> dict[str, Tensor]:
        """Posterior mean [B, Z] -> {partition: predicted z-scored targets [B, F]}; a head sees its own slice only."""
        return {name: head(self.layout.select(mean, name)).float() for name, head in self.heads.items()}

    def forward(self, batch: Batch) -> ModelOutput:
        """Encode, sample in training or take the mean in evaluation, decode, predict."""
        posterior = self.encode(batch.inputs)
        z = posterior.sample() if self.training else posterior.mean
        extras = {}
        if self.auxiliary_decoder is not None:
            residual = self.layout.select(z, self.auxiliary_partition)
            extras["auxiliary_reconstruction"] = self.auxiliary_decoder(residual).float()
        return ModelOutput(posterior, z, self.decode(z), self.predict(posterior.mean), extras)
