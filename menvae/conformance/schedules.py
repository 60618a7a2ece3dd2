"""Conformance suite of schedules."""

from __future__ import annotations

import copy
import math
from typing import ClassVar

import numpy as np

from menvae.conformance.suite import Case, PartConformance
from menvae.schedules import Schedule
from menvae.types import Progress


class ScheduleConformance(PartConformance):
    """Progress -> factor.

    Attributes:
        largest: upper bound of the factor.
        totals: lengths of runs to test, in reference epochs.
    """

    group = "schedule"
    largest: ClassVar[float] = 1.0
    totals: ClassVar[tuple[float, ...]] = (0.5, 1.0, 20.0, 600.0)

    def build(self, case: Case) -> Schedule:
        """Return the schedule."""
        schedule: Schedule = case.bound()()
        return schedule

    def positions(self) -> list[Progress]:
        """Return positions from the first step to the end of runs of several lengths."""
        return [Progress(float(epoch), total) for total in self.totals for epoch in np.linspace(0.0, total, 41)]

    def test_factor_is_a_number_between_0_and_the_largest(self, case: Case) -> None:
        schedule = self.build(case)
        for progress in self.positions():
            factor = schedule(progress)
            assert type(factor) is float
            assert math.isfinite(factor)
            assert 0.0 <= factor <= self.largest

    def test_is_a_pure_function_of_progress(self, case: Case) -> None:
        schedule, positions = self.build(case), self.positions()
        before = copy.deepcopy(vars(schedule))
        forwards = [schedule(progress) for progress in positions]
        assert [schedule(progress) for progress in reversed(positions)] == forwards[::-1]
        assert [self.build(case)(progress) for progress in positions] == forwards
        assert vars(schedule) == before
