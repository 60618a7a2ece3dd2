"""Targets in physical units: mm³ instead of the ln(mm³ + 1) that heads and residualisation work with."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from menvae.data.targets.declaration import Target
from menvae.data.targets.normalizer import TargetNormalizer

Floats = NDArray[np.float64]

_LOG = re.compile(r"ln\((.+) \+ 1\)")
_OF_TABLE: Mapping[str, Callable[[Floats], Floats]] = {
    "log1p": np.expm1,
    "signed_log": lambda values: np.sign(values) * np.expm1(np.abs(values)),
}
"""Transform of a table's column -> its inverse."""


def physical_unit(target: Target) -> str:
    """Return the unit of the values of `physical`.

    >>> [physical_unit(Target(unit, "vol")) for unit in ("ln(mm³ + 1)", "ratio", "log1p")]
    ['mm³', 'ratio', 'as in the table']
    """
    if target.unit in _OF_TABLE:
        return "as in the table"
    logarithm = _LOG.fullmatch(target.unit)
    return logarithm[1] if logarithm else target.unit


def physical(target: Target, values: Floats) -> Floats:
    """Return values of a target in `physical_unit`, without its logarithm.

    >>> physical(Target("ln(mm³ + 1)", "vol"), np.log([1.0, 501.0])).round(9).tolist()
    [0.0, 500.0]
    """
    if target.unit in _OF_TABLE:
        return np.asarray(_OF_TABLE[target.unit](values), np.float64)
    return np.asarray(np.expm1(values), np.float64) if _LOG.fullmatch(target.unit) else values


def denormalised(normalizer: TargetNormalizer, z_scores: Mapping[str, Floats]) -> dict[str, Floats]:
    """Invert z-score and residualisation of arrays, as `TargetNormalizer.to_physical` does of one subject.

    Args:
        normalizer: fitted on the training subjects.
        z_scores: {feature: predicted z-scores, of one shape}.

    Returns:
        {feature: values in its declared unit}; NaN where the feature was never observed, or a regressor is missing.
    """
    found: dict[str, Floats] = {}
    for name in sorted(z_scores, key=lambda feature: len(normalizer.statistics[feature].slopes)):
        statistics = normalizer.statistics[name]
        values = z_scores[name] * statistics.sd + (np.nan if statistics.mean is None else statistics.mean)
        values = values + statistics.intercept
        for regressor, slope in statistics.slopes.items():
            values = values + slope * found.get(regressor, np.full_like(values, np.nan))
        found[name] = np.asarray(values, np.float64)
    return {name: found[name] for name in z_scores}
