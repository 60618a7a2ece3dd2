"""Functions shared by metrics of decoded latents."""

from __future__ import annotations

import numpy as np

from menvae.metrics import SplitRecord


def mean_errors(record: SplitRecord) -> dict[str, float]:
    """Return z of `menvae.metrics.ERRORS` -> mean error over subjects, ignoring NaN; omits a z without any value."""
    errors = record.by_partition("errors")
    return {name: float(np.nanmean(values)) for name, values in errors.items() if np.isfinite(values).any()}
