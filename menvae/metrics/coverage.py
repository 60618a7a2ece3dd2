"""Coverage of the predictive intervals of targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from menvae.metrics import Direction, Floats, Means, SplitRecord, When
from menvae.metrics.means import MetricOfMeans, Pair, ratios
from menvae.metrics.predictive import FEWEST_TRAINING, standardised_errors
from menvae.registry import register

LEVELS = (50, 95)
"""Nominal coverage in per cent; single targets have only the last."""


@register("metric", "coverage", reference="Gneiting, Balabdaoui & Raftery 2007")
class Coverage(MetricOfMeans):
    """Share of subjects whose target lies in its central predictive interval: ``calib/<target>_coverage95``.

    ``calib/<partition>_coverage50`` and ``calib/<partition>_coverage95`` count the targets of a partition together. The
    interval holds the spread over draws of q(z|x) and the noise of the training subjects (see
    `menvae.metrics.predictive`). Calibrated are 0.50 and 0.95; less is overconfident, more is too cautious.
    """

    direction: ClassVar[Direction | None] = None
    range = (0.0, 1.0)
    needs = frozenset({"targets", "observed", "predictions", "spread", "training"})
    absent = f"no head predicts it, no subject has it, or fewer than {FEWEST_TRAINING} training subjects have it"
    when: ClassVar[When] = "final"

    def meaning(self, key: str) -> str:
        """Name the level, and the target or partition."""
        name, _, level = key.removeprefix("calib/").rpartition("_coverage")
        what = f"targets of {name}" if name in self.context.supervision else name
        return f"Share of subjects whose {what} lies in the {level} % predictive interval."

    def names(self) -> list[str]:
        """One key per target, and one per supervised partition and level."""
        return [f"calib/{name}_coverage{level}" for name, level in self._intervals()]

    def means(self, record: SplitRecord) -> Means:
        """Average over the subjects that have a target."""
        found = standardised_errors(record, self.context.supervision)
        errors: dict[str, list[Floats]] = {}
        for partition, targets in found.items():
            errors |= {target: [of_target.predictive] for target, of_target in targets.items()}
            errors[partition] = [of_target.predictive for of_target in targets.values()]
        nothing = [np.full(len(record.subject_id), np.nan)]
        return ratios(
            {
                f"calib/{name}_coverage{level}": covered(errors.get(name, nothing), level / 100.0)
                for name, level in self._intervals()
            }
        )

    def _intervals(self) -> list[tuple[str, int]]:
        supervised = {name: targets for name, targets in self.context.supervision.items() if targets}
        targets = [target for of_partition in supervised.values() for target in of_partition]
        single = [(target, LEVELS[-1]) for target in targets if target not in supervised]
        return single + [(name, level) for name in supervised for level in LEVELS]


def covered(errors: Sequence[Floats], level: float) -> Pair:
    """Return the pair of `menvae.metrics.means.ratios` for the share of errors in the central interval of a level.

    Args:
        errors: standardised errors of each target [N], NaN where unknown.
        level: nominal coverage, in (0, 1).

    >>> covered([np.array([0.5, -2.0, np.nan]), np.array([1.0, np.nan, np.nan])], 0.95)
    (array([2., 0., 0.]), array([2., 1., 0.]))
    """
    stacked = np.abs(np.stack(errors))
    from scipy.special import ndtri

    inside = (stacked <= ndtri(0.5 + 0.5 * level)).sum(axis=0).astype(np.float64)
    return inside, (~np.isnan(stacked)).sum(axis=0).astype(np.float64)
