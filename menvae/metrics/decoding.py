"""Functions shared by metrics of decoded latents."""

from __future__ import annotations

import numpy as np

from menvae.metrics import Floats, SplitRecord


def mean_errors(record: SplitRecord) -> dict[str, float]:
    """Return z of `menvae.metrics.ERRORS` -> mean error over subjects, ignoring NaN; omits a z without any value."""
    errors = record.by_partition("errors")
    return {name: float(np.nanmean(values)) for name, values in errors.items() if np.isfinite(values).any()}


def ratio_of_means(foreign: Floats, own: Floats) -> float | None:
    """Return the mean of ``foreign`` [N] divided by that of ``own`` [N], over the subjects that have both.

    None if no subject has both, or if ``own`` is 0 throughout.

    >>> ratio_of_means(np.array([2.0, np.nan, 4.0]), np.array([1.0, 1.0, 2.0]))
    2.0
    """
    both = np.isfinite(foreign) & np.isfinite(own)
    mean = float(own[both].mean()) if both.any() else 0.0
    return float(foreign[both].mean()) / mean if mean > 0.0 else None
