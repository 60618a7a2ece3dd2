"""Growth models: visits of patients -> forecasts of the logarithm of a tumour's volume.

A model is a part of the group ``growth``. `GrowthModel.fit` estimates the population from patients; what it returns
forecasts a patient, whom it has not seen, from some of his visits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from menvae.growth.visits import Visits

Floats = NDArray[np.float64]

__all__ = ["FittedGrowth", "Floats", "Forecast", "GrowthModel", "Visits"]


@dataclass(frozen=True)
class Forecast:
    """Predictive distribution of log volumes as they would be measured, a normal one for each day.

    Attributes:
        mean: [T], ln mm^3.
        variance: [T]: of the curve, of what is not known about patient and population, and of the measurement.
    """

    mean: Floats
    variance: Floats


class FittedGrowth(Protocol):
    """A population, ready to forecast patients."""

    def predict(self, seen: Visits, days: Floats) -> Forecast:
        """Forecast the log volume of a patient.

        Args:
            seen: the visits that are known, at least one.
            days: to forecast [T], on the clock of ``seen``.
        """
        ...


class GrowthModel:
    """Base class of growth models."""

    min_patients: int = 2
    """Patients without whom nothing can be estimated."""

    def fit(self, patients: Sequence[Visits]) -> FittedGrowth:
        """Estimate the population.

        Args:
            patients: at least `min_patients`, each with one visit or more.
        """
        raise NotImplementedError

    def fit_without_each(self, patients: Sequence[Visits]) -> list[FittedGrowth]:
        """Estimate the population without each of its patients in turn.

        Models that have a shortcut override it; the results are those of `fit`.
        """
        return [self.fit([*patients[:left_out], *patients[left_out + 1 :]]) for left_out in range(len(patients))]
