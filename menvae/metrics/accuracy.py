"""Classification accuracy."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from menvae.metrics import Direction, Means, SplitRecord
from menvae.metrics.means import MetricOfMeans, observed, ratios
from menvae.registry import register


@register("metric", "accuracy")
class Accuracy(MetricOfMeans):
    """Share of the labelled subjects that are classified correctly: ``sem/class_accuracy``."""

    direction: ClassVar[Direction | None] = "higher"
    range = (0.0, 1.0)
    needs = frozenset({"labels", "classes"})
    absent = "no subject has a label"

    def names(self) -> list[str]:
        """One key if subjects may have labels that the model predicts."""
        return ["sem/class_accuracy"] if self.context.labelled else []

    def means(self, record: SplitRecord) -> Means:
        """Average over the labelled subjects."""
        labels, predicted = record.arrays["labels"], record.arrays["classes"]
        return ratios({"sem/class_accuracy": observed((labels == predicted).astype(np.float64), labels >= 0)})
