"""Growth models against other implementations and closed forms."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pynlme.r
import pytest
import torch
from late import Late

from menvae.errors import UserError
from menvae.growth import Visits
from menvae.growth.gaussian import derivatives, slopes, solve
from menvae.growth.gompertz import Gompertz, OneCapacityGompertz, gompertz_curve
from menvae.growth.gp import GaussianProcess
from menvae.growth.linear import LinearGrowth
from menvae.growth.lme import LinearMixedEffects
from menvae.growth.lme_hetero import HeteroscedasticMixedEffects
from menvae.growth.logistic import Logistic
from menvae.growth.nonlinear import NonlinearGrowth
from menvae.statistics import gompertz as closed_form

sm = Late("statsmodels.api")

Floats = np.ndarray
AHEAD = np.array([100.0, 1000.0])
"""Days after day 0 of forecasts."""


def cohort(num: int, count: int, curve: Callable[[np.random.Generator, Floats], Floats], seed: int = 0) -> list[Visits]:
    generator, patients = np.random.default_rng(seed), []
    for number in range(num):
        days = np.concatenate([[0.0], np.cumsum(generator.uniform(150.0, 600.0, count - 1))])
        values = curve(generator, days / 365.25) + generator.normal(0.0, 0.05, count)
        patients.append(Visits(f"patient-{number}", days, values, np.zeros(count)))
    return patients


def straight_line(generator: np.random.Generator, years: Floats) -> Floats:
    return generator.normal(9.0, 1.0) + generator.normal(0.15, 0.2) * years


def design(years: Floats) -> Floats:
    return np.stack([np.ones_like(years), years], axis=1)


def universal_kriging(
    seen: Visits, covariance: Callable[[Floats], Floats], coefficients: Floats, spread: Floats
) -> tuple[Floats, Floats]:
    """Mean and variance on the days `AHEAD`, without the noise of measuring (Cressie 1993, equation 3.4.2)."""
    num, years = len(seen), np.concatenate([seen.years, AHEAD / 365.25])
    cov, inputs = covariance(years), design(years)
    gain = cov[num:, :num] @ np.linalg.inv(cov[:num, :num])
    mean = inputs[num:] @ coefficients + gain @ (seen.log_volume - inputs[:num] @ coefficients)
    unexplained = inputs[num:] - gain @ inputs[:num]
    variance = cov[num:, num:] - gain @ cov[:num, num:] + unexplained @ spread @ unexplained.T
    return mean, variance.diagonal()


def test_linear_mixed_effects_forecast_as_statsmodels_with_the_variance_of_its_fixed_effects() -> None:
    patients = cohort(12, 4, straight_line)
    years, values = (np.concatenate([getattr(visits, name) for visits in patients]) for name in ("years", "log_volume"))
    names = np.repeat([visits.patient for visits in patients], 4)
    theirs = sm.MixedLM(values, design(years), names, design(years)).fit(reml=True, gtol=1e-8)
    fitted = LinearMixedEffects(use_priors=False, average=False).fit(patients)
    of_patient, noise = np.asarray(theirs.cov_re), theirs.scale
    seen = patients[1][:2]
    mean, variance = universal_kriging(
        seen,
        lambda years: design(years) @ of_patient @ design(years).T + noise * np.eye(len(years)),
        theirs.fe_params,
        np.asarray(theirs.cov_params())[:2, :2],
    )
    forecast = fitted.predict(seen, AHEAD)
    np.testing.assert_allclose(forecast.mean, mean, rtol=1e-5)
    np.testing.assert_allclose(forecast.variance, variance, rtol=1e-3)


def saturating(generator: np.random.Generator, years: Floats) -> Floats:
    first, rate, room = generator.normal(8.0, 0.5), generator.normal(0.9, 0.2), generator.normal(2.5, 0.2)
    return first + room * (1.0 - np.exp(-rate * years / room))


def same_capacity(generator: np.random.Generator, years: Floats) -> Floats:
    first, rate = generator.normal(8.0, 0.5), generator.normal(0.9, 0.2)
    return first + (10.5 - first) * (1.0 - np.exp(-rate * years / (10.5 - first)))


def logistic(generator: np.random.Generator, years: Floats) -> Floats:
    first, rate = generator.normal(8.0, 0.5), generator.normal(0.9, 0.2)
    far = rate / (1.0 - np.exp(first - 10.5))
    return 10.5 - np.log1p((np.exp(10.5 - first) - 1.0) * np.exp(-far * years))


GOMPERTZ = "u ~ first + (capacity - first) * (1 - exp(-rate * years / (capacity - first)))"
LOGISTIC = "u ~ capacity - log(1 + (exp(capacity - first) - 1) * exp(-rate / (1 - exp(first - capacity)) * years))"


@pytest.mark.parametrize(
    ("model", "curve", "formula", "random"),
    [
        (Gompertz, saturating, GOMPERTZ, "first + rate + capacity ~ 1"),
        (OneCapacityGompertz, same_capacity, GOMPERTZ, "first + rate ~ 1"),
        (Logistic, logistic, LOGISTIC, "first + rate ~ 1"),
    ],
)
def test_populations_of_curves_are_those_of_nlme(
    model: Callable[..., NonlinearGrowth],
    curve: Callable[[np.random.Generator, Floats], Floats],
    formula: str,
    random: str,
) -> None:
    """By maximum likelihood: what R calls REML of a nonlinear model is no restricted likelihood."""
    patients = cohort(15, 8, curve)
    data = {
        "years": np.concatenate([visits.years for visits in patients]),
        "u": np.concatenate([visits.log_volume for visits in patients]),
        "patient": np.repeat(np.arange(len(patients)), 8),
    }
    theirs = pynlme.r.nlme(
        formula,
        data,
        "first + rate + capacity ~ 1",
        pynlme.r.pdDiag(random),
        groups="~patient",
        start=[8.0, 0.9, 10.5],
        control={"tolerance": 1e-8, "maxIter": 200},
    )
    ours = model(rate=(0.9, 0.3), capacity_ml=(36.0, 0.7), use_priors=False, average=False)
    ours.likelihood = replace(ours.likelihood, restricted=False)
    fitted = ours.fit(patients)
    spreads = [value["StdDev"] for value in pynlme.r.VarCorr(theirs).values()]
    np.testing.assert_allclose(fitted.population[0], list(pynlme.r.fixef(theirs).values()), rtol=1e-3)
    np.testing.assert_allclose(fitted.nodes[0].exp(), spreads, rtol=1e-3)


def test_visits_that_do_not_determine_a_population_are_refused_in_words() -> None:
    """One visit of each patient has no rate."""
    with pytest.raises(UserError, match=r"set growth\.use_priors=true"):
        Gompertz(use_priors=False).fit([visits[:1] for visits in cohort(4, 2, straight_line)])


def matern(years: Floats, parameters: Floats) -> Floats:
    size, process, length, noise = np.exp(parameters)
    apart = np.sqrt(5.0) * np.abs(years[:, None] - years[None]) / length
    return size**2 + process**2 * (1.0 + apart + apart**2 / 3.0) * np.exp(-apart) + noise**2 * np.eye(len(years))


def dense(patients: list[Visits], parameters: Floats) -> tuple[float, Floats, Floats]:
    """Minus the log restricted likelihood, fixed effects and their covariance, of all visits in one matrix."""
    blocks = [matern(visits.years, parameters) for visits in patients]
    ends = np.cumsum([len(block) for block in blocks])
    cov = np.zeros((ends[-1], ends[-1]))
    for block, end in zip(blocks, ends, strict=True):
        cov[end - len(block) : end, end - len(block) : end] = block
    inputs = np.concatenate([design(visits.years) for visits in patients])
    values = np.concatenate([visits.log_volume for visits in patients])
    spread = np.linalg.inv(inputs.T @ np.linalg.solve(cov, inputs))
    coefficients = spread @ inputs.T @ np.linalg.solve(cov, values)
    errors = values - inputs @ coefficients
    logarithms = np.linalg.slogdet(cov)[1] - np.linalg.slogdet(spread)[1]
    return 0.5 * (logarithms + errors @ np.linalg.solve(cov, errors)), coefficients, spread


def test_the_gaussian_process_is_that_of_one_dense_matrix() -> None:
    patients = cohort(8, 3, straight_line)
    fitted = GaussianProcess(average=False).fit(patients)
    parameters = fitted.nodes[0].numpy()
    _, coefficients, spread = dense(patients, parameters)
    seen = patients[1][:2]
    mean, variance = universal_kriging(seen, lambda years: matern(years, parameters), coefficients, spread)
    forecast = fitted.predict(seen, AHEAD)
    np.testing.assert_allclose(forecast.mean, mean, rtol=1e-9)
    np.testing.assert_allclose(forecast.variance, variance, rtol=1e-9)


def test_the_parameters_of_the_gaussian_process_maximise_likelihood_times_prior() -> None:
    patients = cohort(8, 3, straight_line)
    parameters = GaussianProcess(average=False).fit(patients).nodes[0].numpy()
    expected, spread = np.log([1.0, 0.5, 3.0, 0.1]), np.array([1.0, 1.0, 0.7, 1.0])

    def loss(at: Floats) -> float:
        return dense(patients, at)[0] + 0.5 * float(np.sum(((at - expected) / spread) ** 2))

    for axis in 1e-4 * np.eye(4):
        assert abs(loss(parameters + axis) - loss(parameters - axis)) / 2e-4 < 1e-5


def test_the_gompertz_curve_is_its_closed_form() -> None:
    years = np.linspace(0.0, 20.0, 41)
    for first, capacity, a in ((500.0, 80_000.0, 0.2), (20_000.0, 40_000.0, 1.3), (5.0, 1e6, 0.01)):
        room = np.log(capacity / first)
        coefficients = torch.tensor([np.log(first), a * room, np.log(capacity)], dtype=torch.float64)
        found = gompertz_curve(coefficients, torch.from_numpy(years))
        exact = closed_form.Gompertz(first_mm3=first, capacity_mm3=capacity, rate_per_year=a)
        np.testing.assert_allclose(found, [np.log(exact.volume_mm3(at)) for at in years], rtol=0.0, atol=1e-10)


@pytest.mark.parametrize("model", [Gompertz(), OneCapacityGompertz(), Logistic()])
@pytest.mark.parametrize("rate", [0.3, 1e-4, -0.2])
def test_slopes_of_curves_are_finite_differences(model: NonlinearGrowth, rate: float) -> None:
    at = torch.tensor([8.5, rate, 11.0], dtype=torch.float64)
    years = torch.linspace(0.0, 8.0, 9, dtype=torch.float64)
    known = at.clone().requires_grad_()
    found = slopes(model.curve(known.expand(1, -1), years.unsqueeze(0)), known)
    for slope, axis in zip(found, 1e-5 * torch.eye(3, dtype=torch.float64), strict=True):
        expected = (model.curve(at + axis, years) - model.curve(at - axis, years)) / 2e-5
        np.testing.assert_allclose(slope[0], expected, rtol=0.0, atol=1e-7)


@pytest.mark.parametrize("model", [LinearMixedEffects(), HeteroscedasticMixedEffects(), GaussianProcess()])
def test_derivatives_of_the_likelihood_are_finite_differences(model: LinearGrowth) -> None:
    patients = cohort(5, 3, straight_line)
    patients[2] = patients[2][:2]
    rows, weights = model.rows(patients), 1.0 - torch.eye(5, dtype=torch.float64)[:2]
    at = model.likelihood.prior.mean + torch.tensor([[0.1], [-0.2]], dtype=torch.float64)
    found = derivatives(at, rows, model.likelihood, weights)

    def loss(parameters: torch.Tensor) -> torch.Tensor:
        return solve(parameters, rows, model.likelihood, weights).loss + model.likelihood.prior.penalty(parameters)

    np.testing.assert_allclose(found.loss, loss(at), rtol=1e-12)
    for number, axis in enumerate(1e-5 * torch.eye(at.shape[1], dtype=torch.float64)):
        slope = (loss(at + axis) - loss(at - axis)) / 2e-5
        np.testing.assert_allclose(found.gradient[:, number], slope, rtol=1e-5, atol=1e-5)
        above, below = (derivatives(at + side, rows, model.likelihood, weights).gradient for side in (axis, -axis))
        np.testing.assert_allclose(found.hessian[:, number], (above - below) / 2e-5, rtol=1e-5, atol=1e-5)
