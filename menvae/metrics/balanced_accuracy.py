"""Balanced classification accuracy."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from menvae.metrics import Direction, Metric, SplitRecord
from menvae.registry import register


@register("metric", "balanced_accuracy", reference="Brodersen, Ong, Stephan & Buhmann 2010")
class BalancedAccuracy(Metric):
    """Mean recall over the classes that occur in the split: ``sem/class_balanced_accuracy``.

    Unlike plain accuracy, it is informative with many rare classes.
    """

    direction: ClassVar[Direction | None] = "higher"
    range = (0.0, 1.0)
    needs = frozenset({"labels", "classes"})
    absent = "the model has no classifier, or no subject has a label"

    def names(self) -> list[str]:
        """One key if subjects may have labels."""
        return ["sem/class_balanced_accuracy"] if self.context.labelled else []

    def compute(self, record: SplitRecord) -> dict[str, float | None]:
        """Return the mean recall; None without labels."""
        known = record.arrays["labels"] >= 0
        if not known.any():
            return {"sem/class_balanced_accuracy": None}
        right = (record.arrays["labels"] == record.arrays["classes"])[known].astype(np.float64)
        _, classes, counts = np.unique(record.arrays["labels"][known], return_inverse=True, return_counts=True)
        recalls = np.bincount(classes, weights=right) / counts
        return {"sem/class_balanced_accuracy": float(recalls.mean())}
