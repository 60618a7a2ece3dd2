"""Reconstruction error from the subject's own latents."""

from __future__ import annotations

import math
from typing import ClassVar

from menvae.metrics import ERRORS, Direction, Metric, SplitRecord
from menvae.metrics.decoding import mean_errors
from menvae.registry import register

_OWN = ("mu", "sampled")


@register("metric", "reconstruction_error")
class ReconstructionError(Metric):
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

    def compute(self, record: SplitRecord) -> dict[str, float | None]:
        """Return the errors."""
        means = mean_errors(record)
        return {f"diag/recon_{name}_mse": means.get(name) for name in _OWN}
