"""Growth curves and visit schedules of phantom patients."""

from __future__ import annotations

from menvae.data.phantom.distributions import CURVE_STREAM, SCHEDULE_STREAM, draw_value, random_streams
from menvae.statistics.gompertz import Gompertz


def phantom_growth(seed: int, index: int) -> Gompertz:
    """Draw the growth curve of a patient's tumour; depends only on (seed, index).

    Args:
        seed: seed of the cohort, 0 or more.
        index: index of the patient, 0 or more.

    >>> curve = phantom_growth(seed=0, index=3)
    >>> 0 < curve.first_mm3 < curve.volume_mm3(2.0) < curve.capacity_mm3
    True
    """
    (rng,) = random_streams(seed, index, CURVE_STREAM, count=1)
    rate, capacity_ml = draw_value(rng, "growth_rate"), draw_value(rng, "growth_capacity")
    capacity_mm3 = 1000.0 * capacity_ml
    return Gompertz(capacity_mm3 * draw_value(rng, "growth_first_share"), capacity_mm3, rate)


def phantom_schedule(seed: int, index: int, num_visits: tuple[int, int], interval_days: tuple[int, int]) -> list[int]:
    """Draw the days of a patient's visits, the first at 0; all bounds are inclusive.

    Intervals do not depend on the number of visits, so a longer follow-up starts like a shorter one.

    >>> phantom_schedule(seed=0, index=3, num_visits=(3, 3), interval_days=(100, 100))
    [0, 100, 200]
    """
    count, intervals = random_streams(seed, index, SCHEDULE_STREAM)
    num = int(count.integers(num_visits[0], num_visits[1], endpoint=True))
    gaps = [int(intervals.integers(*interval_days, endpoint=True)) for _ in range(num - 1)]
    return [sum(gaps[:visit]) for visit in range(num)]
