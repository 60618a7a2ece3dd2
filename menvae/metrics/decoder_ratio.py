"""Dependence of the decoder on z."""

from __future__ import annotations

import math
from typing import ClassVar

from menvae.metrics import Direction, Metric, SplitRecord
from menvae.metrics.decoding import mean_errors
from menvae.metrics.foreign_error import FOREIGN
from menvae.registry import register


@register("metric", "decoder_ratio")
class DecoderRatio(Metric):
    """Error from a foreign z divided by the error from the subject's own: ``diag/(shuffled|mean_z|z0)_ratio``.

    It is 1 if the decoder does not use z.
    """

    direction: ClassVar[Direction | None] = "higher"
    range = (0.0, math.inf)
    needs = frozenset({"errors"})
    absent = "no other subject's z to decode, or every reconstruction is perfect"

    def meaning(self, key: str) -> str:
        """Name the z that replaces the subject's own."""
        foreign = FOREIGN[key.removeprefix("diag/").removesuffix("_ratio")]
        return f"Error with {foreign}, divided by the error with the subject's own z."

    def names(self) -> list[str]:
        """Three keys."""
        return [f"diag/{name}_ratio" for name in FOREIGN]

    def compute(self, record: SplitRecord) -> dict[str, float | None]:
        """Return the ratios; None if the reconstruction is perfect."""
        means = mean_errors(record)
        own = means.get("mu")
        return {f"diag/{name}_ratio": means[name] / own if own and name in means else None for name in FOREIGN}
