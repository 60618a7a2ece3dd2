"""Gompertz curve of tumour growth, in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Gompertz:
    """Solution of dV/dt = a V ln(K/V): ln V(t) = ln K + (ln V(0) - ln K) exp(-a t).

    Attributes:
        first_mm3: V(0), positive.
        capacity_mm3: K, positive; the limit of V.
        rate_per_year: a.

    Source: Laird 1964, Dynamics of tumour growth, Br J Cancer 18:490.

    >>> curve = Gompertz(first_mm3=100.0, capacity_mm3=10000.0, rate_per_year=math.log(2))
    >>> round(curve.volume_mm3(1.0)), round(curve.volume_mm3(50.0))
    (1000, 10000)
    """

    first_mm3: float
    capacity_mm3: float
    rate_per_year: float

    def __post_init__(self) -> None:
        """Raise ValueError unless both volumes are finite and positive."""
        for name, value in (("first_mm3", self.first_mm3), ("capacity_mm3", self.capacity_mm3)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be positive, got {value}")

    def volume_mm3(self, years: float) -> float:
        """Return the volume in mm^3 ``years`` after the first visit."""
        start, end = math.log(self.first_mm3), math.log(self.capacity_mm3)
        return math.exp(end + (start - end) * math.exp(-self.rate_per_year * years))
