"""Conformance suite of growth models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

from menvae.conformance.suite import Case, PartConformance
from menvae.growth import FittedGrowth, Floats, GrowthModel, Visits


class GrowthConformance(PartConformance):
    """Visits of patients -> forecasts.

    Attributes:
        num_patients: of the cohort that models are fitted to.
        tolerance: largest difference of a forecast after `GrowthModel.fit_without_each` and after `GrowthModel.fit`.
    """

    group = "growth"
    num_patients: ClassVar[int] = 10
    tolerance: ClassVar[float] = 1e-8
    _fits: ClassVar[dict[str, FittedGrowth]] = {}

    def build(self, case: Case) -> GrowthModel:
        """Return the model."""
        model: GrowthModel = case.bound()()
        return model

    def patients(self) -> list[Visits]:
        """Return patients whose tumours grow at rates of their own, with one to five visits and four latents."""
        generator = np.random.default_rng(0)
        found = []
        for number in range(self.num_patients):
            count = 1 + number % 5
            days = np.cumsum(generator.integers(90, 500, count)).astype(np.float64)
            values = generator.normal(9.0, 1.0) + generator.normal(0.1, 0.2) * days / 365.25
            values += generator.normal(0.0, 0.05, count)
            latents = np.random.default_rng(number).normal(0.0, 1.0, (count, 4))
            found.append(Visits(f"patient-{number}", days, values, np.zeros(count), latents))
        return found

    @pytest.fixture
    def fitted(self, case: Case) -> FittedGrowth:
        """The model, fitted to `patients`; the tests of a case share it."""
        if str(case) not in self._fits:
            self._fits[str(case)] = self.build(case).fit(self.patients())
        return self._fits[str(case)]

    def days(self, seen: Visits) -> Floats:
        """Return days from the last visit on, up to five years later."""
        days: Floats = seen.days[-1] + np.array([0.0, 30.0, 365.0, 5 * 365.0])
        return days

    def test_forecasts_are_finite_and_uncertain(self, fitted: FittedGrowth) -> None:
        for seen in self.patients():
            forecast = fitted.predict(seen, self.days(seen))
            assert forecast.mean.shape == forecast.variance.shape == (4,)
            assert np.isfinite(forecast.mean).all()
            assert (forecast.variance > 0.0).all()

    def test_what_lies_farther_ahead_is_less_certain(self, fitted: FittedGrowth) -> None:
        seen = self.patients()[3]
        variance = fitted.predict(seen, self.days(seen)).variance
        assert variance[1] < variance[2] < variance[3]

    def test_a_forecast_depends_on_the_patient_alone_and_changes_nothing(self, fitted: FittedGrowth) -> None:
        first, second = self.patients()[3:5]
        before = fitted.predict(first, self.days(first))
        fitted.predict(second, self.days(second))
        again = fitted.predict(first, self.days(first))
        np.testing.assert_array_equal(again.mean, before.mean)
        np.testing.assert_array_equal(again.variance, before.variance)

    def test_day_0_is_any_day(self, case: Case, fitted: FittedGrowth) -> None:
        """Such as the day of birth: every patient's days move by a number of his own."""
        patients = self.patients()
        moved = [replace(one, days=one.days + 20_000.0 + 500.0 * number) for number, one in enumerate(patients)]
        turned = self.build(case).fit(moved)
        for seen, later in zip(patients[2:4], moved[2:4], strict=True):
            expected, found = fitted.predict(seen, self.days(seen)), turned.predict(later, self.days(later))
            np.testing.assert_allclose(found.mean, expected.mean, rtol=0.0, atol=1e-6)
            np.testing.assert_allclose(found.variance, expected.variance, rtol=0.0, atol=1e-6)

    def test_a_larger_tumour_is_forecast_larger(self, fitted: FittedGrowth) -> None:
        seen = self.patients()[3]
        larger = replace(seen, log_volume=seen.log_volume + 0.5)
        days = self.days(seen)[:3]
        assert (fitted.predict(larger, days).mean > fitted.predict(seen, days).mean).all()

    def test_days_are_forecast_one_by_one_as_together(self, fitted: FittedGrowth) -> None:
        seen = self.patients()[4]
        together = fitted.predict(seen, self.days(seen))
        for number, day in enumerate(self.days(seen)):
            alone = fitted.predict(seen, np.array([day]))
            np.testing.assert_allclose(alone.mean, together.mean[number : number + 1], rtol=1e-9)
            np.testing.assert_allclose(alone.variance, together.variance[number : number + 1], rtol=1e-9)

    def test_the_order_of_patients_does_not_matter(self, case: Case, fitted: FittedGrowth) -> None:
        turned = self.build(case).fit(self.patients()[::-1])
        self._same(turned, fitted, self.patients())

    def test_leaving_out_each_patient_is_fitting_the_others(self, case: Case) -> None:
        model, patients = self.build(case), self.patients()
        without = model.fit_without_each(patients)
        assert len(without) == len(patients)
        self._same(without[3], self.build(case).fit([*patients[:3], *patients[4:]]), patients)

    def test_known_noise_counts(self, case: Case) -> None:
        """A visit that is known to be wrong says nothing."""
        patients, seen = self.patients(), self.patients()[4]
        fitted = self.build(case).fit(patients)
        wrong = seen.log_volume.copy()
        wrong[1] += 3.0
        variance = np.where(np.arange(len(seen)) == 1, 1e6, 0.0)
        doubted = fitted.predict(replace(seen, log_volume=wrong, variance=variance), self.days(seen)).mean
        believed = fitted.predict(replace(seen, log_volume=wrong), self.days(seen)).mean
        kept = np.arange(len(seen)) != 1
        assert seen.latents is not None
        right = Visits(seen.patient, seen.days[kept], seen.log_volume[kept], seen.variance[kept], seen.latents[kept])
        expected = fitted.predict(right, self.days(seen)).mean
        assert np.abs(doubted - expected).max() <= 0.1 * np.abs(believed - expected).max() + 1e-6

    def _same(self, one: FittedGrowth, other: FittedGrowth, patients: Sequence[Visits]) -> None:
        for seen in patients[:3]:
            found, expected = (fitted.predict(seen, self.days(seen)) for fitted in (one, other))
            np.testing.assert_allclose(found.mean, expected.mean, rtol=0.0, atol=self.tolerance)
            np.testing.assert_allclose(found.variance, expected.variance, rtol=0.0, atol=self.tolerance)
