"""Tests of several hypotheses at once."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypeVar

Test = TypeVar("Test", bound=Hashable)

FALSE_DISCOVERY_RATE = 0.05
"""Expected share of false ones among the differences that are called clear."""


def q_values(p_values: Mapping[Test, float | None]) -> dict[Test, float | None]:
    """Adjust the p-values of one family of tests for their number, by Benjamini & Hochberg (1995, JRSS B 57:289).

    Args:
        p_values: test -> p-value; None where there was none, which then counts as no test.

    >>> q_values({"a": 0.01, "b": 0.04, "c": None})
    {'a': 0.02, 'b': 0.04, 'c': None}
    """
    from scipy.stats import false_discovery_control

    known = {test: value for test, value in p_values.items() if value is not None}
    if not known:
        return dict(p_values)
    adjusted = false_discovery_control(list(known.values()), method="bh").tolist()
    return {**p_values, **dict(zip(known, adjusted, strict=True))}
