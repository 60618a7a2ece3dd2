"""How much of the reconstruction rests on each partition."""

from __future__ import annotations

import math
from typing import ClassVar

from menvae.metrics import Direction, Metric, SplitRecord, When
from menvae.metrics.decoding import ratio_of_means
from menvae.registry import register


class _Reads(Metric):
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

    def compute(self, record: SplitRecord) -> dict[str, float | None]:
        """Return the ratios; None if the reconstruction is perfect."""
        own, others = record.arrays["errors.mu"], record.by_partition("final_errors")
        return {f"diag/reads_{name}": ratio_of_means(others[f"without_{name}"], own) for name in self.context.layout}


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

    def compute(self, record: SplitRecord) -> dict[str, float | None]:
        """Return the ratios over the subjects with a tumour; None if the reconstruction is perfect."""
        errors = record.by_partition("tumour_errors")
        return {
            f"diag/reads_{name}_tumour": ratio_of_means(errors[f"without_{name}"], errors["mu"])
            for name in self.context.layout
        }
