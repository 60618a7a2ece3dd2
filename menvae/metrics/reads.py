"""How much of the reconstruction rests on each partition."""

from __future__ import annotations

import math
from typing import ClassVar

from menvae.metrics import Direction, Means, SplitRecord, When
from menvae.metrics.means import MetricOfMeans, paired, ratios
from menvae.registry import register


class _Reads(MetricOfMeans):
    """Error without a partition divided by the error with it."""

    direction: ClassVar[Direction | None] = "higher"
    range = (0.0, math.inf)
    when: ClassVar[When] = "final"
    ending: ClassVar[str]
    where: ClassVar[str]

    def meaning(self, key: str) -> str:
        """Name the partition."""
        partition = key.removeprefix("diag/reads_").removesuffix(self.ending)
        return f"Error{self.where} with {partition} replaced by its mean, divided by the error with it; 1: not read."

    def names(self) -> list[str]:
        """One key per partition."""
        return [f"diag/reads_{name}{self.ending}" for name in self.context.layout]


@register("metric", "reads")
class PartitionReads(_Reads):
    """Error with a partition replaced by its training mean, divided by the error with it: ``diag/reads_<partition>``.

    It is 1 if the decoder does not read the partition.
    """

    needs = frozenset({"errors", "final_errors"})
    absent = "every reconstruction is perfect"
    ending, where = "", ""

    def means(self, record: SplitRecord) -> Means:
        """Divide the mean errors."""
        own, others = record.arrays["errors.mu"], record.by_partition("final_errors")
        layout = self.context.layout
        return ratios({f"diag/reads_{name}": paired(others[f"without_{name}"], own) for name in layout})


@register("metric", "reads_tumour")
class PartitionReadsTumour(_Reads):
    """`PartitionReads` with the errors inside the tumour: ``diag/reads_<partition>_tumour``.

    A tumour fills a small share of the box, so that a decoder which draws no tumour hardly has a larger error.
    """

    needs = frozenset({"tumour_errors"})
    absent = "no subject has a tumour in its mask, or every reconstruction is perfect"
    ending, where = "_tumour", " inside the tumour"

    def names(self) -> list[str]:
        """One key per partition; none for rows of a table."""
        return super().names() if self.context.size else []

    def means(self, record: SplitRecord) -> Means:
        """Divide the mean errors over the subjects with a tumour."""
        errors, layout = record.by_partition("tumour_errors"), self.context.layout
        return ratios({f"diag/reads_{name}_tumour": paired(errors[f"without_{name}"], errors["mu"]) for name in layout})
