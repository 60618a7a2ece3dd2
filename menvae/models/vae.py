"""Plain variational autoencoder, without supervision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from menvae.models import Blueprint
from menvae.models.semivae import SemiVAE
from menvae.registry import register

PARTITIONS: Mapping[str, int | None] = {"residual": None}


@register("model", "vae", reference="Kingma & Welling 2014; Exp1 and Exp2 design reports")
class VAE(SemiVAE):
    """Encoder and decoder around one Gaussian z: a SemiVAE without heads or auxiliary decoder."""

    def __init__(
        self,
        blueprint: Blueprint,
        *,
        z_dim: int = 128,
        partitions: Mapping[str, int | None] = PARTITIONS,
        logvar_min: float = -6.0,
    ) -> None:
        """Build encoder and decoder.

        Args:
            blueprint: sizes and parts.
            z_dim: Z.
            partitions: name -> size, for terms and metrics of parts of z; the gate of active units reads ``residual``.
            logvar_min: lower bound of the posterior's log variance (-6 is a variance of 0.00248).

        Raises:
            UserError: the sizes do not fit.
        """
        super().__init__(
            blueprint,
            z_dim=z_dim,
            partitions=partitions,
            supervision={},
            heads={},
            inverse_heads={},
            logvar_min=logvar_min,
        )

    @classmethod
    def provides(cls, supervision: Mapping[str, Sequence[str]]) -> frozenset[str]:
        """The reconstruction."""
        return frozenset({"reconstruction"})
