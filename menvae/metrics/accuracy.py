"""Classification accuracy."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from menvae.metrics import Direction, Metric, SplitRecord
from menvae.registry import register


@register("metric", "accuracy")
class Accuracy(Metric):
    """Share of the labelled subjects that are classified correctly: ``sem/class_accuracy``."""

    direction: ClassVar[Direction | None] = "higher"
    range = (0.0, 1.0)
    needs = frozenset({"labels", "classes"})
    absent = "the model has no classifier, or no subject has a label"

    def names(self) -> list[str]:
        """One key if subjects may have labels."""
        return ["sem/class_accuracy"] if self.context.labelled else []

    def compute(self, record: SplitRecord) -> dict[str, float | None]:
        """Return the accuracy; None without labels."""
        labels, predicted = record.arrays["labels"], record.arrays["classes"]
        right = (labels == predicted)[labels >= 0]
        return {"sem/class_accuracy": float(np.mean(right)) if len(right) else None}
