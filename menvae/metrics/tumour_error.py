"""Reconstruction error inside the tumour."""

from __future__ import annotations

import math
from typing import ClassVar

from menvae.metrics import Direction, Means, SplitRecord, When
from menvae.metrics.means import MetricOfMeans, observed, ratios
from menvae.registry import register


@register("metric", "tumour_error")
class TumourError(MetricOfMeans):
    """Mean squared error of the reconstruction over the voxels of the tumour: ``diag/recon_tumour_mse``.

    It is averaged over the voxels of each subject, then over the subjects that have a tumour in their mask.
    """

    direction: ClassVar[Direction | None] = "lower"
    range = (0.0, math.inf)
    needs = frozenset({"tumour_errors"})
    absent = "no subject has a tumour in its mask"
    when: ClassVar[When] = "final"

    def names(self) -> list[str]:
        """One key; none for rows of a table."""
        return ["diag/recon_tumour_mse"] if self.context.size else []

    def means(self, record: SplitRecord) -> Means:
        """Average over the subjects with a tumour."""
        return ratios({"diag/recon_tumour_mse": observed(record.arrays["tumour_errors.mu"])})
