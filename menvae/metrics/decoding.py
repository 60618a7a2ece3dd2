"""What metrics of decoded latents share."""

from __future__ import annotations

import numpy as np

from menvae.metrics import SplitRecord


def mean_errors(record: SplitRecord) -> dict[str, float]:
    """Return z of `menvae.metrics.ERRORS` -> mean over the subjects whose error is a number; without those of none."""
    errors = record.by_partition("errors")
    return {name: float(np.nanmean(values)) for name, values in errors.items() if np.isfinite(values).any()}
