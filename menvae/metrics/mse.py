"""Squared error of the columns of a table."""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Tensor

from menvae.metrics import Direction, Means, SplitRecord
from menvae.metrics.channels import channel_means
from menvae.metrics.means import MetricOfMeans
from menvae.registry import register
from menvae.types import Batch, ModelOutput


@register("metric", "mse")
class ColumnError(MetricOfMeans):
    """Mean squared error of the reconstruction, per column of a table: ``val_epoch/mse_<column>``.

    Columns are z-scored, so the unit is the column's variance over the training rows.
    """

    direction: ClassVar[Direction | None] = "lower"
    range = (0.0, math.inf)
    needs = frozenset({"inputs", "reconstruction"})
    absent = "no row has the column"

    def meaning(self, key: str) -> str:
        """Name the column."""
        return f"Mean squared error of the reconstructed {key.removeprefix('val_epoch/mse_')}; 1 is its variance."

    def names(self) -> list[str]:
        """One key per column."""
        return [] if self.context.size else [f"val_epoch/mse_{column}" for column in self.context.channels]

    def observe(self, batch: Batch, output: ModelOutput) -> dict[str, Tensor]:
        """Return ``mse`` [B, C]."""
        return {"mse": (batch.inputs.float() - output.reconstruction.float()).square()}

    def means(self, record: SplitRecord) -> Means:
        """Average each column over the subjects that have it."""
        return channel_means(record, "mse", self.context.channels)
