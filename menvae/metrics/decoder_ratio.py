"""Dependence of the decoder on z."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from menvae.metrics import Direction, Floats, Means, SplitRecord
from menvae.metrics.foreign_error import FOREIGN
from menvae.metrics.means import MetricOfMeans, errors_of, observed, ratios
from menvae.registry import register


@register("metric", "decoder_ratio")
class DecoderRatio(MetricOfMeans):
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

    def means(self, record: SplitRecord) -> Means:
        """Divide the mean errors."""
        errors = errors_of(record)
        of_errors = ratios({name: observed(errors[name]) for name in ("mu", *FOREIGN)})

        def values(means: Floats) -> dict[str, Floats]:
            found = of_errors.values(means)
            own = np.where(found["mu"] > 0.0, found["mu"], np.nan)
            return {f"diag/{name}_ratio": found[name] / own for name in FOREIGN}

        return Means(of_errors.rows, values, {f"diag/{name}_ratio": of_errors.rests_on[name] for name in FOREIGN})
