"""Errors of predictions in units of their predicted standard deviation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from menvae.metrics import Direction, Floats, Means, SplitRecord, When
from menvae.metrics.means import MetricOfMeans, Pair, ratios
from menvae.metrics.predictive import FEWEST_TRAINING, standardised_errors
from menvae.registry import register

_NAME = "standardised_error"


@register("metric", _NAME, reference="Pernot 2022, J. Chem. Phys. 156:114109")
class StandardisedError(MetricOfMeans):
    """Root mean square error in units of the predicted standard deviation: ``calib/<target>_standardised_error``.

    ``calib/<partition>_standardised_error`` is that of all targets of a partition. 1 is calibrated; 2 means that errors
    are twice as large as predicted. ``calib/<partition>_standardised_error_of_posterior`` divides by the spread over
    draws of q(z|x) alone: it is 1 if the variances of the posterior explain all errors, and sqrt(1 + s^2 / V) for the
    true posterior of a target with noise s^2 (see `menvae.metrics.predictive`); below 1, the posterior is wider than
    the errors.
    """

    direction: ClassVar[Direction | None] = None
    range = (0.0, math.inf)
    needs = frozenset({"targets", "observed", "predictions", "spread", "training"})
    absent = f"no head predicts it, no subject has it, or fewer than {FEWEST_TRAINING} training subjects have it"
    when: ClassVar[When] = "final"

    def meaning(self, key: str) -> str:
        """Name the target or partition, and the standard deviation."""
        of_posterior = key.endswith("_of_posterior")
        name = key.removeprefix("calib/").removesuffix("_of_posterior").removesuffix(f"_{_NAME}")
        unit = "the spread of q(z|x)" if of_posterior else "its predicted standard deviation"
        return f"Root mean square error of {name} in units of {unit}."

    def names(self) -> list[str]:
        """One key per target, and two per supervised partition."""
        supervised = {name: targets for name, targets in self.context.supervision.items() if targets}
        targets = [target for of_partition in supervised.values() for target in of_partition]
        single = [f"calib/{target}_{_NAME}" for target in targets if target not in supervised]
        return single + [f"calib/{name}_{_NAME}{kind}" for name in supervised for kind in ("", "_of_posterior")]

    def means(self, record: SplitRecord) -> Means:
        """Average the squares over the subjects that have a target."""
        nothing = [np.full(len(record.subject_id), np.nan)]
        errors = dict.fromkeys(self.names(), nothing)
        for partition, targets in standardised_errors(record, self.context.supervision).items():
            errors |= {f"calib/{target}_{_NAME}": [found.predictive] for target, found in targets.items()}
            errors[f"calib/{partition}_{_NAME}"] = [found.predictive for found in targets.values()]
            errors[f"calib/{partition}_{_NAME}_of_posterior"] = [found.posterior for found in targets.values()]
        mean_squares = ratios({name: _squares(errors[name]) for name in self.names()})

        def roots(means: Floats) -> dict[str, Floats]:
            return {key: np.sqrt(values) for key, values in mean_squares.values(means).items()}

        return Means(mean_squares.rows, roots, mean_squares.rests_on)


def _squares(errors: Sequence[Floats]) -> Pair:
    """Return sum of squares and number [N] of the known errors [N] of some targets; no number if one is infinite."""
    stacked = np.stack(errors)
    known = ~np.isnan(stacked)
    if np.isinf(stacked).any():
        known = np.zeros_like(known)
    return (np.where(known, stacked, 0.0) ** 2).sum(axis=0), known.sum(axis=0).astype(np.float64)
