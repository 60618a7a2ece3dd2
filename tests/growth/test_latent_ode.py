"""Growth models with latents."""

from dataclasses import replace

import numpy as np
import pytest

from menvae.errors import UserError
from menvae.growth import Visits
from menvae.growth.gompertz import OneCapacityGompertz
from menvae.growth.latent_ode import LatentODE

DAYS_PER_YEAR = 365.25


def simulated(num: int, seed: int, *, told: bool = True) -> list[Visits]:
    """Gompertz curves; the first latent is their rate, unless it is not told, and the second moves by 0.4 a year."""
    generator = np.random.default_rng(seed)
    patients = []
    for number in range(num):
        days = np.concatenate([[0.0], np.cumsum(generator.integers(200, 500, 3))]).astype(np.float64)
        years, latents = days / DAYS_PER_YEAR, np.tile(generator.normal(size=3), (4, 1))
        latents[:, 1] += 0.4 * years
        first, rate = generator.normal(9.0, 0.5), 0.1 + 0.2 * (latents[0, 0] if told else generator.normal())
        room = np.log(80_000.0) - first
        values = first + (-room * np.expm1(-rate * years / room) if rate > 0.0 else rate * years)
        values += generator.normal(0.0, 0.05, 4)
        latents += generator.normal(0.0, 0.05, latents.shape)
        patients.append(Visits(f"patient-{number}", days, values, np.zeros(4), latents))
    return patients


@pytest.fixture(scope="module")
def cohort() -> list[Visits]:
    return simulated(24, seed=0)


@pytest.fixture(scope="module")
def fitted(cohort):
    return LatentODE().fit(cohort)


@pytest.fixture(scope="module")
def plain(cohort):
    return OneCapacityGompertz().fit(cohort)


def errors(fitted, patients: list[Visits]) -> np.ndarray:
    """Errors of the last visit from the first one."""
    return np.array([fitted.predict(one[:1], one.days[-1:]).mean[0] - one.log_volume[-1] for one in patients])


def test_without_a_rest_it_is_its_base(cohort, plain):
    none = LatentODE(remainder_sd=(1e-7, 0.1)).fit(cohort)
    for seen in cohort[:3]:
        days = seen.days[-1] + np.array([-100.0, 0.0, 400.0, 2000.0])
        found, expected = none.predict(seen, days), plain.predict(seen, days)
        np.testing.assert_allclose(found.mean, expected.mean, rtol=0.0, atol=1e-5)
        np.testing.assert_allclose(found.variance, expected.variance, rtol=1e-3)


def test_latents_that_tell_the_rate_are_used(fitted, plain):
    unseen = simulated(25, seed=1)
    with_them, without = (np.abs(errors(one, unseen)).mean() for one in (fitted, plain))
    assert with_them < 0.6 * without


def test_its_uncertainty_shrinks_where_latents_tell_the_rate_and_holds(fitted, plain):
    unseen = simulated(25, seed=1)
    sd, of_plain = (
        np.sqrt([one.predict(visits[:1], visits.days[-1:]).variance[0] for visits in unseen]) for one in (fitted, plain)
    )
    assert np.median(sd) < 0.8 * np.median(of_plain)
    assert (np.abs(errors(fitted, unseen)) < 2.0 * sd).mean() > 0.85


def test_latents_without_meaning_hardly_matter():
    patients, unseen = simulated(20, seed=3, told=False), simulated(25, seed=4, told=False)
    with_them, without = (
        np.abs(errors(model.fit(patients), unseen)).mean() for model in (LatentODE(), OneCapacityGompertz())
    )
    assert with_them < 1.1 * without


def test_the_state_has_the_forecast_volume_and_latents_that_evolve(fitted, cohort):
    seen = cohort[0]
    day = float(seen.days[-1])
    now, (volume, later) = fitted.state(seen, day), fitted.state(seen, day + DAYS_PER_YEAR)
    np.testing.assert_allclose(now[1], seen.latents[-1], atol=1e-12)
    np.testing.assert_allclose(later - seen.latents[-1], [0.0, 0.4, 0.0], atol=0.15)
    assert volume == pytest.approx(fitted.predict(seen, np.array([day + DAYS_PER_YEAR])).mean[0], abs=1e-12)


def test_both_solvers_forecast_the_same(cohort, fitted):
    other = LatentODE(solver="dopri5", tolerance=1e-6).fit(cohort)
    for seen in cohort[:2]:
        days = seen.days[-1] + np.array([0.0, 400.0, 1200.0])
        found, expected = other.predict(seen, days), fitted.predict(seen, days)
        np.testing.assert_allclose(found.mean, expected.mean, rtol=0.0, atol=1e-3)
        np.testing.assert_allclose(found.variance, expected.variance, rtol=1e-2)


def test_the_adjoint_fits_the_same(cohort):
    few = cohort[:6]
    seen, days = few[0], few[0].days[-1:] + 400.0
    remembered, integrated = (
        LatentODE(solver="dopri5", adjoint=adjoint, width=4).fit(few).predict(seen, days).mean
        for adjoint in (False, True)
    )
    np.testing.assert_allclose(integrated, remembered, rtol=0.0, atol=1e-5)


def test_days_before_the_first_visit_are_forecast(fitted, cohort):
    seen = cohort[0]
    forecast = fitted.predict(seen, np.array([-300.0, 0.0]))
    assert np.isfinite(forecast.mean).all()
    assert forecast.variance[0] > forecast.variance[1]


def test_patients_without_latents_are_refused(cohort, fitted):
    without = [replace(visits, latents=None) for visits in cohort[:3]]
    for call in (
        lambda: LatentODE().fit(without),
        lambda: LatentODE().fit_without_each(without),
        lambda: fitted.predict(without[0], np.array([100.0])),
    ):
        with pytest.raises(UserError, match="needs latents, and patient 'patient-0' has none: source=run"):
            call()


def test_different_numbers_of_latents_are_refused(cohort, fitted):
    other = replace(cohort[0], latents=cohort[0].latents[:, :2])
    with pytest.raises(UserError, match="'patient-0' has 2 latents, and others have 3"):
        LatentODE().fit([cohort[1], other])
    with pytest.raises(UserError, match="'patient-0' has 2 latents, and others have 3"):
        fitted.predict(other, np.array([100.0]))
