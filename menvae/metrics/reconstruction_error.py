"""Reconstruction error from the subject's own latents."""

from __future__ import annotations

import math
from typing import ClassVar

from menvae.metrics import ERRORS, Direction, Means, SplitRecord
from menvae.metrics.means import MetricOfMeans, errors_of, observed, ratios
from menvae.registry import register

_OWN = ("mu", "sampled")


@register("metric", "reconstruction_error")
class ReconstructionError(MetricOfMeans):
    """Mean squared error from the posterior mean and a sample: ``diag/recon_mu_mse``, ``diag/recon_sampled_mse``."""

    direction: ClassVar[Direction | None] = "lower"
    range = (0.0, math.inf)
    needs = frozenset({"errors"})

    def meaning(self, key: str) -> str:
        """Name the z."""
        name = key.removeprefix("diag/recon_").removesuffix("_mse")
        return f"Mean squared error of the reconstruction from {ERRORS[name]}."

    def names(self) -> list[str]:
        """Two keys."""
        return [f"diag/recon_{name}_mse" for name in _OWN]

    def means(self, record: SplitRecord) -> Means:
        """Average the errors over subjects."""
        errors = errors_of(record)
        return ratios({f"diag/recon_{name}_mse": observed(errors[name]) for name in _OWN})
