"""Visits of a patient: days, log volumes and what is known of their error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DAYS_PER_YEAR = 365.25


@dataclass(frozen=True)
class Visits:
    """Visits of one patient in the order of time.

    Attributes:
        patient: name.
        days: [V], increasing; day 0 is any day.
        log_volume: [V], ln mm^3.
        variance: of the error of ``log_volume`` [V], as far as it is known beforehand; 0 where it is not.
        latents: mean latents [V, Z], or None.
        truth: log volumes that forecasts are judged by [V], such as those of masks; None: ``log_volume``.
    """

    patient: str
    days: NDArray[np.float64]
    log_volume: NDArray[np.float64]
    variance: NDArray[np.float64]
    latents: NDArray[np.float64] | None = None
    truth: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        """Raise ValueError unless there are visits, all numbers are finite, and days increase."""
        numbers = np.stack([self.days, self.log_volume, self.variance])
        if not numbers.size or not np.isfinite(numbers).all() or (self.variance < 0.0).any():
            raise ValueError(f"visits of {self.patient!r}: {numbers!r}")
        if (np.diff(self.days) <= 0.0).any():
            raise ValueError(f"days of {self.patient!r} do not increase: {self.days!r}")

    def __len__(self) -> int:
        """Return the number of visits."""
        return len(self.days)

    def __getitem__(self, chosen: slice) -> Visits:
        """Return some of the visits, on the same clock."""
        latents = None if self.latents is None else self.latents[chosen]
        truth = None if self.truth is None else self.truth[chosen]
        return Visits(self.patient, self.days[chosen], self.log_volume[chosen], self.variance[chosen], latents, truth)

    @property
    def judged_by(self) -> NDArray[np.float64]:
        """Log volumes that forecasts are judged by [V]."""
        return self.log_volume if self.truth is None else self.truth

    @property
    def years(self) -> NDArray[np.float64]:
        """Years since the first visit [V]."""
        return self.years_of(self.days)

    def years_of(self, days: NDArray[np.float64]) -> NDArray[np.float64]:
        """Days on the clock of the visits [T] -> years since the first visit [T]."""
        years: NDArray[np.float64] = (days - self.days[0]) / DAYS_PER_YEAR
        return years
