"""The Gompertz curve: its differential equation, and what cannot be a volume."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from menvae.statistics.gompertz import Gompertz


def test_it_solves_the_differential_equation() -> None:
    curve = Gompertz(first_mm3=800.0, capacity_mm3=60_000.0, rate_per_year=0.7)
    solved = solve_ivp(lambda _, v: 0.7 * v * np.log(60_000.0 / v), (0, 6), [800.0], rtol=1e-9)
    assert curve.volume_mm3(6.0) == pytest.approx(solved.y[0, -1], rel=1e-6)


@pytest.mark.parametrize("volume", [0.0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize("name", ["first_mm3", "capacity_mm3"])
def test_a_volume_is_positive(name: str, volume: float) -> None:
    volumes = {"first_mm3": 1.0, "capacity_mm3": 2.0, name: volume}
    with pytest.raises(ValueError, match=f"{name} must be positive, got {volume}"):
        Gompertz(**volumes, rate_per_year=1.0)
