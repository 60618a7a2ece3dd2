"""A number with its interval, what it rests on, and why a part of it is missing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """Value of a statistic with the ends of its interval.

    Attributes:
        value: None if the statistic is undefined.
        low: lower end; None, like ``high``, if there is no interval.
        high: upper end.
        n: number of patients that the value rests on.
        reason: why the value or the interval is missing; empty if neither is.

    >>> Estimate(0.9, 0.8, 0.95, n=40).transformed(lambda share: 100.0 * share)
    Estimate(value=90.0, low=80.0, high=95.0, n=40, reason='')
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    reason: str = ""

    def __post_init__(self) -> None:
        """Raise ValueError for a number that is not finite, half an interval, or no value and no reason."""
        for name in ("value", "low", "high"):
            number = getattr(self, name)
            if number is not None and not math.isfinite(number):
                raise ValueError(f"{name} of an estimate must be finite or None, got {number}")
        if (self.low is None) != (self.high is None):
            raise ValueError(f"an interval has two ends, got low={self.low} and high={self.high}")
        if self.low is not None and self.value is None:
            raise ValueError(f"an interval from {self.low} to {self.high} has no value")
        if self.value is None and not self.reason:
            raise ValueError("an estimate without a value needs a reason")

    def transformed(self, increasing: Callable[[float], float]) -> Estimate:
        """Apply an increasing function to the value and both ends."""
        value, low, high = (None if x is None else increasing(x) for x in (self.value, self.low, self.high))
        return Estimate(value, low, high, self.n, self.reason)
