"""The reduced Gompertz model against integrals by SciPy."""

import numpy as np
import pytest
import torch
from growth.cohorts import meningiomas
from numpy.typing import NDArray
from scipy.integrate import simpson
from scipy.stats import norm

from menvae.growth import Visits
from menvae.growth.gaussian import padded_rows
from menvae.growth.reduced_gompertz import ReducedGompertz, way_left
from menvae.statistics.gompertz import Gompertz

Floats = NDArray[np.float64]
POPULATION = np.array([9.0, np.log(0.9), 0.13, np.log(0.16), np.log(80_000.0), np.log(0.08)])
"""Mean and log sd of first log volumes, of rates; log capacity; log noise."""


RATES = np.linspace(-1.5, 1.5, 6001)
"""Simpson's panels end at 0, where curves of shrinking tumours begin."""


def normal_given(rates: Floats, population: Floats, visits: Visits, years: Floats) -> tuple[Floats, Floats]:
    """Mean [R, V] and covariance [R, V, V] of measured log volumes at each rate."""
    size, size_sd, _, _, capacity, noise = population
    rates = rates[:, None]
    left = np.where(rates > 0.0, np.exp(-np.maximum(rates, 0.0) * years), 1.0 - rates * years)
    known = np.full(len(years), visits.variance.mean())
    known[: len(visits)] = visits.variance
    cov = np.exp(2.0 * size_sd) * left[:, :, None] * left[:, None] + np.diag(np.exp(2.0 * noise) + known)
    return capacity + left * (size - capacity), cov


def densities(values: Floats, mean: Floats, cov: Floats) -> Floats:
    """Multivariate normal densities [R]."""
    error = values - mean
    squares = np.einsum("rv,rv->r", error, np.linalg.solve(cov, error[..., None])[..., 0])
    found: Floats = np.exp(-0.5 * (squares + np.linalg.slogdet(2.0 * np.pi * cov)[1]))
    return found


def integral(values: Floats, population: Floats, rates: Floats) -> float:
    """Integrate values [R] over the normal distribution of rates."""
    return float(simpson(values * norm.pdf(rates, population[2], np.exp(population[3])), x=rates))


def likelihood(population: Floats, visits: Visits, rates: Floats = RATES) -> float:
    given = normal_given(rates, population, visits, visits.years)
    return integral(densities(visits.log_volume, *given), population, rates)


def patients() -> list[Visits]:
    """With one to six visits, and errors of some that are known beforehand."""
    found = meningiomas(5, 3)
    found[1] = found[1][:1]
    found[2] = Visits(found[2].patient, found[2].days, found[2].log_volume, np.full(len(found[2]), 0.02))
    return found


def test_likelihoods_are_integrals_over_rates() -> None:
    parameters = torch.from_numpy(POPULATION).unsqueeze(0)
    found = ReducedGompertz().losses(parameters, padded_rows(patients()))
    expected = [-np.log(likelihood(POPULATION, visits)) for visits in patients()]
    np.testing.assert_allclose(found[0], expected, rtol=0.0, atol=1e-4)


def test_rates_that_visits_tell_exactly_are_found_between_the_first_nodes() -> None:
    """Forty visits with hardly any noise, of a rate that is far from most."""
    days = np.linspace(0.0, 4000.0, 40)
    exact = Gompertz(first_mm3=3000.0, capacity_mm3=80_000.0, rate_per_year=0.4511)
    values = np.log([exact.volume_mm3(day / 365.25) for day in days])
    visits = Visits("exact", days, values, np.zeros(40))
    population = np.array([*POPULATION[:5], np.log(1e-3)])
    (found,) = ReducedGompertz().losses(torch.from_numpy(population).unsqueeze(0), padded_rows([visits]))[0]
    assert found.item() == pytest.approx(
        -np.log(likelihood(population, visits, 0.4511 + np.linspace(-0.002, 0.002, 4001))), abs=1e-7
    )


def test_forecasts_are_moments_of_integrals() -> None:
    fitted = ReducedGompertz(average=False).fit(meningiomas(20, 1))
    population = fitted.nodes[0].numpy()
    for visits in patients():
        seen = visits[: max(1, len(visits) - 1)]
        day, num = seen.days[-1] + 500.0, len(seen)
        mean, cov = normal_given(RATES, population, seen, np.append(seen.years, seen.years_of(np.array([day]))))
        gain = np.linalg.solve(cov[:, :num, :num], cov[:, :num, num:])[..., 0]
        expected = mean[:, num] + np.einsum("rv,rv->r", gain, seen.log_volume - mean[:, :num])
        variance = cov[:, num, num] - np.einsum("rv,rv->r", gain, cov[:, :num, num])
        density = densities(seen.log_volume, mean[:, :num], cov[:, :num, :num])
        whole, first, second = (
            integral(density * values, population, RATES) for values in (1.0, expected, expected**2 + variance)
        )
        forecast = fitted.predict(seen, np.array([day]))
        assert forecast.mean[0] == pytest.approx(first / whole, abs=1e-4)
        assert forecast.variance[0] == pytest.approx(second / whole - (first / whole) ** 2, rel=1e-3)


def test_parameters_maximise_likelihood_times_prior() -> None:
    cohort = meningiomas(8, 2)
    model = ReducedGompertz(average=False)
    found = model.fit(cohort).nodes[0].numpy()
    expected = np.array([np.log(10_000.0), 0.0, 0.05, np.log(0.1), np.log(80_000.0), np.log(0.1)])
    spread = np.array([10.0, 1.0, 0.15, 0.7, 0.7, 0.5])

    def loss(at: Floats) -> float:
        penalty = 0.5 * float(np.sum(((at - expected) / spread) ** 2))
        return penalty - float(sum(np.log(likelihood(at, visits)) for visits in cohort))

    for axis in 1e-4 * np.eye(6):
        assert abs(loss(found + axis) - loss(found - axis)) / 2e-4 < 1e-4


def test_the_way_left_is_that_of_the_closed_form_and_ends_in_its_tangent() -> None:
    years = torch.linspace(0.0, 10.0, 11, dtype=torch.float64)
    rates = torch.tensor([0.3, 0.0, -0.2], dtype=torch.float64)
    grows, stands, shrinks = way_left(rates, years)
    exact = Gompertz(first_mm3=500.0, capacity_mm3=80_000.0, rate_per_year=0.3)
    room = np.log(80_000.0) - np.log([exact.volume_mm3(at) for at in years.tolist()])
    np.testing.assert_allclose(grows, room / room[0], rtol=1e-12)
    np.testing.assert_array_equal(stands, 1.0)
    np.testing.assert_allclose(shrinks, 1.0 + 0.2 * years, rtol=1e-12)


def test_nodes_are_worth_less_where_the_posterior_falls_faster_than_a_normal_one() -> None:
    """Three patients leave the spread of rates almost open; no forecast explodes."""
    cohort = meningiomas(3, 0)
    fitted = ReducedGompertz().fit(cohort)
    assert fitted.weights.sum().item() == pytest.approx(1.0)
    assert fitted.weights.min() < 1.0 / len(fitted.nodes) < fitted.weights.max()
    forecast = fitted.predict(cohort[0][:1], cohort[0].days[0] + 365.25 * np.array([1.0, 5.0]))
    assert (np.sqrt(forecast.variance) < [1.0, 5.0]).all(), forecast
