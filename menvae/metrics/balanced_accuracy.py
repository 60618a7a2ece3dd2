"""Balanced classification accuracy."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from menvae.metrics import Direction, Floats, Means, SplitRecord
from menvae.metrics.means import MetricOfMeans, mean_of_some
from menvae.registry import register

_KEY = "sem/class_balanced_accuracy"


@register("metric", "balanced_accuracy", reference="Brodersen, Ong, Stephan & Buhmann 2010")
class BalancedAccuracy(MetricOfMeans):
    """Mean recall over the classes that occur in the split: ``sem/class_balanced_accuracy``.

    Unlike plain accuracy, it is informative with many rare classes.
    """

    direction: ClassVar[Direction | None] = "higher"
    range = (0.0, 1.0)
    needs = frozenset({"labels", "classes"})
    absent = "the model has no classifier, or no subject has a label"

    def names(self) -> list[str]:
        """One key if subjects may have labels."""
        return [_KEY] if self.context.labelled else []

    def means(self, record: SplitRecord) -> Means:
        """Average the recalls of the classes."""
        labels, predicted = record.arrays["labels"], record.arrays["classes"]
        classes = np.unique(labels[labels >= 0])
        of_class = (labels[:, None] == classes).astype(np.float64)
        right = of_class * (labels == predicted)[:, None]

        def values(means: Floats) -> dict[str, Floats]:
            with np.errstate(divide="ignore", invalid="ignore"):
                recalls = means[:, : len(classes)] / means[:, len(classes) :]
            return {_KEY: mean_of_some([np.full(len(means), np.nan), *recalls.T])}

        return Means(np.concatenate([right, of_class], axis=1), values, {_KEY: labels >= 0})
