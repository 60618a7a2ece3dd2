"""Flows of log volume and latents: the split step and dopri5 against closed forms, each other and SciPy."""

import math
import sys

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from menvae.errors import UserError
from menvae.growth.flows import Dopri5, Flow, Network, Split, sensitivities, solver_of
from menvae.statistics.gompertz import Gompertz

LATENTS, WIDTH, SAMPLES = 3, 5, 4
FIRST_MM3, CAPACITY_MM3 = (500.0, 8000.0, 30_000.0, 200_000.0), 80_000.0
RATES = (0.05, 0.3, 1.0, 0.2)
START = torch.tensor([0.0, 1.0, 2.0, 0.5], dtype=torch.float64)
LENGTH = torch.tensor([0.3, 2.0, -1.0, 4.0], dtype=torch.float64)
BOTH = pytest.mark.parametrize("solver", [Split(3), Dopri5(1e-12)], ids=["split", "dopri5"])


def states() -> torch.Tensor:
    latents = torch.from_numpy(np.random.default_rng(0).normal(size=(SAMPLES, LATENTS)))
    return torch.cat([torch.tensor(FIRST_MM3).double().log().unsqueeze(-1), latents], dim=1)


def flow(size: float) -> Flow:
    """Gompertz growth, with networks whose weights have a standard deviation of ``size``."""
    generator = np.random.default_rng(1)
    decay = torch.tensor(RATES, dtype=torch.float64)
    return Flow(
        Network.drawn(LATENTS, WIDTH, seed=0),
        decay,
        decay * math.log(CAPACITY_MM3),
        torch.from_numpy(size * generator.normal(size=(SAMPLES, WIDTH, 1 + LATENTS))),
    )


@BOTH
def test_without_networks_growth_is_gompertz(solver):
    end = solver(flow(0.0), states(), START, LENGTH)
    expected = [
        math.log(Gompertz(first, CAPACITY_MM3, rate).volume_mm3(years))
        for first, rate, years in zip(FIRST_MM3, RATES, LENGTH.tolist(), strict=True)
    ]
    np.testing.assert_allclose(end[:, 0], expected, rtol=0.0, atol=1e-10)
    torch.testing.assert_close(end[:, 1:], states()[:, 1:], rtol=0.0, atol=1e-15)


def test_a_tumour_without_decay_grows_or_shrinks_exponentially():
    still = torch.zeros(SAMPLES, dtype=torch.float64)
    drift = torch.tensor([0.2, 0.0, -0.3, -0.1], dtype=torch.float64)
    end = Split(4)(Flow(flow(0.0).network, still, drift, flow(0.0).weights), states(), START, LENGTH)
    torch.testing.assert_close(end[:, 0], states()[:, 0] + drift * LENGTH, rtol=0.0, atol=1e-12)


def test_growth_is_the_same_on_both_sides_of_where_its_series_begins():
    for rate in (0.999e-6, 1.001e-6):
        decay = torch.full((1,), rate, dtype=torch.float64)
        of = Flow(flow(0.0).network, decay, 11.0 * decay, flow(0.0).weights[:1])
        factor, summand = of.gompertz(torch.ones(1, dtype=torch.float64), 1)
        assert float(9.0 * factor + summand) == pytest.approx(9.0 + 2.0 * (rate - 0.5 * rate**2), abs=1e-14)


def test_dopri5_is_that_of_scipy():
    of = flow(0.3)
    end = Dopri5(1e-11)(of, states(), START, LENGTH)

    def derivative(years: float, state: np.ndarray) -> np.ndarray:
        together = torch.from_numpy(state.reshape(SAMPLES, -1))
        return (LENGTH.unsqueeze(-1) * of.derivative(together, START + years * LENGTH)).numpy().ravel()

    expected = solve_ivp(derivative, (0.0, 1.0), states().numpy().ravel(), method="DOP853", rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(end.numpy().ravel(), expected.y[:, -1], rtol=0.0, atol=1e-8)


def test_halving_the_steps_divides_the_error_by_four():
    of = flow(0.3)
    true = Dopri5(1e-12)(of, states(), START, LENGTH)
    errors = [float((Split(steps)(of, states(), START, LENGTH) - true).norm()) for steps in (8, 16, 32)]
    assert errors[2] < 1e-3
    np.testing.assert_allclose([errors[0] / errors[1], errors[1] / errors[2]], 4.0, rtol=0.1)


@BOTH
def test_samples_do_not_depend_on_each_other(solver):
    of, tolerance = flow(0.3), 1e-14 if isinstance(solver, Split) else 1e-9
    together = solver(of, states(), START, LENGTH)
    for number in range(SAMPLES):
        one = slice(number, number + 1)
        alone = Flow(of.network, of.decay[one], of.drift[one], of.weights[one])
        end = solver(alone, states()[one], START[one], LENGTH[one])
        torch.testing.assert_close(end, together[one], rtol=0.0, atol=tolerance)


def test_gradients_are_finite_differences():
    of = flow(0.3)
    inputs = (states(), of.decay, of.drift, of.weights, START, LENGTH)
    wanted = tuple(tensor.clone().requires_grad_(number < 4) for number, tensor in enumerate(inputs))

    def end(state, decay, drift, weights, start, length):
        return Split(3)(Flow(of.network, decay, drift, weights), state, start, length).sum(dim=-1)

    assert torch.autograd.gradcheck(end, wanted, eps=1e-6, atol=1e-6, fast_mode=True)


def test_the_adjoint_has_a_gradient_of_the_patients_rate_and_all_else():
    """``odeint_adjoint`` alone gives none to tensors that its function closes over."""
    found = []
    for solver in (Dopri5(1e-8), Dopri5(1e-8, adjoint=True), Split(64)):
        of = flow(0.3)
        wanted = (of.decay, of.drift, of.weights, states().requires_grad_())
        for tensor in wanted[:-1]:
            tensor.requires_grad_()
        end = solver(of, wanted[-1], START, LENGTH)
        found.append(torch.autograd.grad(end.square().sum(), wanted))
    for remembered, integrated, split in zip(*found, strict=True):
        assert remembered.abs().max() > 0.1
        torch.testing.assert_close(integrated, remembered, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(split, remembered, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("solver", [Split(100), Dopri5(1e-8), Dopri5(1e-8, adjoint=True)], ids=str)
def test_sensitivities_of_constant_features_have_a_closed_form(solver):
    """dD/dt = tanh(bias) - a D has D = tanh(bias) (1 - exp(-a t)) / a."""
    bias = torch.tensor([-0.5, 0.2, 1.0], dtype=torch.float64)
    network = Network(torch.zeros(1 + LATENTS, 3, dtype=torch.float64), torch.zeros_like(bias), bias)
    decay = torch.tensor(RATES, dtype=torch.float64)
    by_volume, by_latents = sensitivities(network, solver, states(), (START, LENGTH), (decay, 11.0 * decay))
    years = -torch.expm1(-decay * LENGTH) / decay
    torch.testing.assert_close(by_volume, years.unsqueeze(-1) * bias.tanh(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(by_latents, LENGTH.unsqueeze(-1) * bias.tanh(), rtol=1e-5, atol=1e-7)


def test_a_missing_torchdiffeq_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)
    with pytest.raises(UserError, match=r"torchdiffeq.*pip install 'menvae\[growth\]'") as caught:
        solver_of("dopri5", steps=8, tolerance=1e-6, adjoint=False)
    assert "\n" not in str(caught.value)


def test_the_split_step_has_no_adjoint():
    with pytest.raises(UserError, match="solver=dopri5"):
        solver_of("split", steps=8, tolerance=1e-6, adjoint=True)
