"""Share of active latent dimensions."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np

from menvae.metrics import Direction, Floats, Means, MetricContext, SplitRecord
from menvae.metrics.means import MetricOfMeans, moments, variances
from menvae.metrics.posterior import ACTIVE_VARIANCE, sections
from menvae.registry import Field, register


@register("metric", "active_share", reference="Burda, Grosse & Salakhutdinov 2016")
class ActiveShare(MetricOfMeans):
    """Share of the dimensions whose posterior mean varies, of z and each partition: ``diag/au_frac(_<partition>)``."""

    direction: ClassVar[Direction | None] = "higher"
    range = (0.0, 1.0)
    needs = frozenset({"mean"})
    min_subjects = 2
    absent = "a single subject has no variance"

    def __init__(self, context: MetricContext, *, threshold: Annotated[float, Field(gt=0.0)] = ACTIVE_VARIANCE) -> None:
        """Set the threshold.

        Args:
            context: run context.
            threshold: variance of the posterior mean over a split that an active dimension exceeds.
        """
        super().__init__(context)
        self.threshold = threshold

    def meaning(self, key: str) -> str:
        """Name the partition."""
        partition = key.removeprefix("diag/au_frac").removeprefix("_")
        return f"Fraction of {partition or 'all'} dimensions that vary between subjects."

    def names(self) -> list[str]:
        """One key for z and one per partition."""
        return [f"diag/au_frac{ending}" for ending in sections(self.context.layout)]

    def means(self, record: SplitRecord) -> Means:
        """Average the first two moments of the posterior means."""
        endings = sections(self.context.layout)

        def values(means: Floats) -> dict[str, Floats]:
            active = (variances(means) > self.threshold).astype(np.float64)
            return {f"diag/au_frac{ending}": active[:, part].mean(axis=1) for ending, part in endings.items()}

        return Means(moments(record.arrays["mean"]), values)
