"""Number of active latent dimensions."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

from menvae.metrics import Direction, Metric, MetricContext, SplitRecord
from menvae.metrics.posterior import ACTIVE_VARIANCE, sections
from menvae.registry import Field, register


@register("metric", "active_units", reference="Burda, Grosse & Salakhutdinov 2016")
class ActiveUnits(Metric):
    """Number of dimensions whose posterior mean varies, of z and each partition: ``diag/au_count(_<partition>)``."""

    direction: ClassVar[Direction | None] = "higher"
    unit = "dimensions"
    range = (0.0, math.inf)
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
        partition = key.removeprefix("diag/au_count").removeprefix("_")
        return f"Number of {partition or 'all'} dimensions that vary between subjects."

    def names(self) -> list[str]:
        """One key for z and one per partition."""
        return [f"diag/au_count{ending}" for ending in sections(self.context.layout)]

    def compute(self, record: SplitRecord) -> dict[str, float | None]:
        """Return the numbers."""
        active = record.arrays["mean"].var(axis=0) > self.threshold
        return {
            f"diag/au_count{ending}": float(active[part].sum())
            for ending, part in sections(self.context.layout).items()
        }
