"""Reconstruction error from foreign latents."""

from __future__ import annotations

import math
from typing import ClassVar

from menvae.metrics import Direction, Means, SplitRecord
from menvae.metrics.means import MetricOfMeans, errors_of, observed, ratios
from menvae.registry import register

FOREIGN = {
    "shuffled": "the z of another patient",
    "mean_z": "the mean training latent instead of z",
    "z0": "z = 0",
}
"""Name of a z that is not the subject's own -> its description."""


@register("metric", "foreign_error")
class ForeignError(MetricOfMeans):
    """Mean squared error from another subject's z, the mean z and zero: ``diag/recon_(shuffled|mean_z|z0)_mse``."""

    direction: ClassVar[Direction | None] = None
    range = (0.0, math.inf)
    needs = frozenset({"errors"})
    absent = "no other subject's z to decode"

    def meaning(self, key: str) -> str:
        """Name the z that replaces the subject's own."""
        name = key.removeprefix("diag/recon_").removesuffix("_mse")
        return f"Mean squared error of the reconstruction from {FOREIGN[name]}."

    def names(self) -> list[str]:
        """Three keys."""
        return [f"diag/recon_{name}_mse" for name in FOREIGN]

    def means(self, record: SplitRecord) -> Means:
        """Average the errors over subjects."""
        errors = errors_of(record)
        return ratios({f"diag/recon_{name}_mse": observed(errors[name]) for name in FOREIGN})
