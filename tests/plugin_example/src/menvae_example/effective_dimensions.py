"""A metric: the effective number of latent dimensions."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from menvae.metrics import Direction, Metric, SplitRecord
from menvae.registry import register


@register("metric", "effective_dimensions", reference="Roy & Vetterli 2007 (effective rank)")
class EffectiveDimensions(Metric):
    """Effective rank of the covariance of the posterior means over the split: ``diag/effective_dimensions``.

    The exponential of the entropy of its normalised eigenvalues: Z if all directions vary equally, 1 if all latents lie
    on a line. The number of active units does not show this, because active units may be redundant.
    """

    direction: ClassVar[Direction | None] = "higher"
    unit = "dimensions"
    range = (1.0, math.inf)
    needs = frozenset({"mean"})
    min_subjects = 2
    absent = "the latents of all subjects are the same"

    def names(self) -> list[str]:
        """Return the single key."""
        return ["diag/effective_dimensions"]

    def compute(self, record: SplitRecord) -> dict[str, float | None]:
        """Return the effective rank, or None if the latents do not vary."""
        mean = record.arrays["mean"]
        values = np.linalg.svd(mean - mean.mean(axis=0), compute_uv=False) ** 2
        if not values.sum() > 0.0:
            return {"diag/effective_dimensions": None}
        shares = values[values > 0.0] / values.sum()
        return {"diag/effective_dimensions": float(np.exp(-(shares * np.log(shares)).sum()))}
