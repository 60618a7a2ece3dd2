"""The model against the mean training image."""

from __future__ import annotations

import math
from typing import ClassVar

from menvae.metrics import Direction, Means, SplitRecord, When
from menvae.metrics.means import MetricOfMeans, paired, ratios
from menvae.registry import register


@register("metric", "mean_image_ratio")
class MeanImageRatio(MetricOfMeans):
    """Error of the mean training image divided by the error of the model: ``diag/mean_image_ratio``.

    A decoder is worth its latents only above 1. ``diag/mean_z_ratio`` flatters a decoder that draws the mean latent
    worse than the mean image.
    """

    direction: ClassVar[Direction | None] = "higher"
    range = (0.0, math.inf)
    needs = frozenset({"errors", "final_errors"})
    absent = "every reconstruction is perfect"
    when: ClassVar[When] = "final"

    def meaning(self, key: str) -> str:
        """Say what it compares."""
        return "Error of the mean training image, divided by the error of the reconstruction."

    def names(self) -> list[str]:
        """One key."""
        return ["diag/mean_image_ratio"]

    def means(self, record: SplitRecord) -> Means:
        """Divide the mean errors."""
        pair = paired(record.arrays["final_errors.mean_image"], record.arrays["errors.mu"])
        return ratios({"diag/mean_image_ratio": pair})
