"""Errors of predicted targets in units of the standard deviation that the model predicts for them.

A head predicts y' = h(mean of q(z|x)). Two sources of error are known without the target: z is uncertain, which moves
the prediction by V(x) = E[(h(z) - y')^2] over draws of q(z|x); and targets vary around h(z), by a variance s^2. The
second is fitted to the training subjects: their mean squared error is the mean of V(x) + s^2, so that

    s^2 = max(0, mean (y - y')^2 - mean V(x)),    predictive distribution N(y', V(x) + s^2).

It is normal if h is linear; for others this is an approximation. The spread V(x) alone is narrower than the errors
wherever targets are noisy functions of z, even for the true posterior; with s^2, a calibrated model has standardised
errors of mean square 1, and fewer targets in its intervals mean that it knows its training subjects better than others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from menvae.metrics import Floats, SplitRecord

FEWEST_TRAINING = 10
"""Without the target in as many training subjects, its noise is unknown."""


@dataclass(frozen=True)
class StandardisedErrors:
    """Errors of a target.

    Attributes:
        predictive: errors divided by the standard deviation of the predictive distribution [N], NaN where the target
            was not observed.
        posterior: errors divided by the spread of q(z|x) alone [N].
    """

    predictive: Floats
    posterior: Floats


def standardised_errors(
    record: SplitRecord, supervision: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, StandardisedErrors]]:
    """Return partition -> target -> errors, of the partitions with a head.

    Args:
        record: record of a split, with predictions, their spread, and those of the training subjects.
        supervision: partition -> names of its targets.
    """
    assert record.training is not None
    judged, training = _squares(record, supervision), _squares(record.training, supervision)
    found: dict[str, dict[str, StandardisedErrors]] = {}
    for partition, targets in judged.items():
        for target, (error, variance) in targets.items():
            noise = _noise(*training.get(partition, {}).get(target, (np.zeros(0), np.zeros(0))))
            errors = StandardisedErrors(_divided(error, variance + noise), _divided(error, variance))
            found.setdefault(partition, {})[target] = errors
    return found


def _squares(
    record: SplitRecord, supervision: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, tuple[Floats, Floats]]]:
    """Return partition -> target -> errors [N], NaN where not observed, and V(x) [N]."""
    predictions, spread = record.by_partition("predictions"), record.by_partition("spread")
    heads = {name: targets for name, targets in supervision.items() if name in predictions and name in spread}
    true = record.by_target(heads)
    return {
        partition: {
            target: (true[target] - predictions[partition][:, column], spread[partition][:, column])
            for column, target in enumerate(targets)
        }
        for partition, targets in heads.items()
    }


def _noise(error: Floats, variance: Floats) -> float:
    """Return s^2; NaN with too few training subjects."""
    known = np.isfinite(error)
    if known.sum() < FEWEST_TRAINING:
        return float("nan")
    return max(0.0, float(np.mean(error[known] ** 2 - variance[known])))


def _divided(error: Floats, variance: Floats) -> Floats:
    """Return errors in units of the standard deviation; infinite for an error where none is predicted."""
    scale = np.sqrt(variance)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(error == 0.0, 0.0 * scale, error / scale)
