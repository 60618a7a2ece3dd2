"""Balanced classification accuracy."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from menvae.metrics import Direction, Floats, Means, SplitRecord
from menvae.metrics.means import MetricOfMeans, mean_of_some
from menvae.registry import register

_KEY, _SKILL = "sem/class_balanced_accuracy", "sem/class_skill"


@register("metric", "balanced_accuracy", reference="Brodersen, Ong, Stephan & Buhmann 2010")
class BalancedAccuracy(MetricOfMeans):
    """Mean recall over the classes that occur in the split: ``sem/class_balanced_accuracy``, ``sem/class_skill``.

    Unlike plain accuracy, it is informative with many rare classes. The skill is (a - c) / (1 - c) of balanced accuracy
    a and its chance level c = 1 / classes: 0 for a guess that ignores the input, less if the guess may be a class that
    does not occur in the split, 1 for a perfect classifier; with two classes Youden's J. It allows one gate for any
    number of classes.
    """

    direction: ClassVar[Direction | None] = "higher"
    range = (-1.0, 1.0)
    needs = frozenset({"labels", "classes"})
    absent = "no subject has a label; the skill needs two classes"

    def meaning(self, key: str) -> str:
        """Tell balanced accuracy and skill apart."""
        return {
            _KEY: "Mean recall over the classes that occur in the split.",
            _SKILL: "Balanced accuracy from chance (0) to perfect (1).",
        }[key]

    def names(self) -> list[str]:
        """Two keys if subjects may have labels that the model predicts."""
        return [_KEY, _SKILL] if self.context.labelled else []

    def means(self, record: SplitRecord) -> Means:
        """Average the recalls of the classes."""
        labels, predicted = record.arrays["labels"], record.arrays["classes"]
        classes = np.unique(labels[labels >= 0])
        of_class = (labels[:, None] == classes).astype(np.float64)
        right = of_class * (labels == predicted)[:, None]

        def values(means: Floats) -> dict[str, Floats]:
            with np.errstate(divide="ignore", invalid="ignore"):
                recalls = means[:, : len(classes)] / means[:, len(classes) :]
                accuracy = mean_of_some([np.full(len(means), np.nan), *recalls.T])
                chance = 1.0 / np.isfinite(recalls).sum(axis=1)
                return {_KEY: accuracy, _SKILL: (accuracy - chance) / (1.0 - chance)}

        return Means(np.concatenate([right, of_class], axis=1), values, dict.fromkeys((_KEY, _SKILL), labels >= 0))
