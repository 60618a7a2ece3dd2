"""Flow of a tumour's state in time: Gompertz growth in closed form plus a small network, and two solvers of it.

A state is a log volume u and latents z, [1 + Z] together. Every sample of a batch has a start and a length of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from menvae.errors import UserError
from menvae.growth.gaussian import TYPICAL_SIZE

LONG_YEARS = 5.0
"""Unit in which the network sees time."""
_SMALL = 1e-6
"""Decay in a step below which the growth of a step is a series."""


class Network(NamedTuple):
    """Hidden layer of the networks: features tanh(inputs @ hidden + bias) of log volume, latents and time.

    Attributes:
        hidden: of log volume and latents [1 + Z, H].
        of_time: of years since the first visit [H].
        bias: [H].
    """

    hidden: Tensor
    of_time: Tensor
    bias: Tensor

    @classmethod
    def drawn(cls, num_latents: int, width: int, seed: int) -> Network:
        """Draw a layer whose sums have about unit variance, for volumes about 10 mL and latents of unit size."""
        generator = np.random.default_rng(seed)
        drawn = torch.from_numpy(generator.normal(size=(2 + num_latents, width)) / np.sqrt(2 + num_latents))
        bias = torch.from_numpy(generator.normal(size=width))
        return cls(drawn[:-1], drawn[-1] / LONG_YEARS, bias - TYPICAL_SIZE * drawn[0])

    def features(self, state: Tensor, years: Tensor) -> Tensor:
        """State [B, 1 + Z], years since the first visit [B] -> [B, H]."""
        return torch.addmm(torch.addcmul(self.bias, years.unsqueeze(-1), self.of_time), state, self.hidden).tanh()


@dataclass(frozen=True)
class Flow:
    """du/dt = drift - decay u + f and dz/dt = g, where (f, g) = features @ weights.

    Gompertz growth with a rate a and a capacity K has a decay of a and a drift of a ln K.

    Attributes:
        network: of the features.
        decay: per year [B].
        drift: per year [B].
        weights: [H, 1 + Z] or [B, H, 1 + Z].
    """

    network: Network
    decay: Tensor
    drift: Tensor
    weights: Tensor

    def rest(self, state: Tensor, years: Tensor) -> Tensor:
        """Return what the networks add to the derivative of a state [B, 1 + Z]."""
        features = self.network.features(state, years)
        if self.weights.ndim == 2:
            return features @ self.weights
        return (features.unsqueeze(-2) @ self.weights).squeeze(-2)

    def derivative(self, state: Tensor, years: Tensor) -> Tensor:
        """Return the derivative of a state [B, 1 + Z] by years."""
        gompertz = (self.drift - self.decay * state[:, 0]).unsqueeze(-1)
        return self.rest(state, years) + torch.nn.functional.pad(gompertz, (0, state.shape[-1] - 1))

    def gompertz(self, length: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Return the factors and summands of states in ``length`` years without networks [B, size] each.

        Those of latents are 1 and 0.
        """
        decayed = self.decay * length
        small = decayed.abs() < _SMALL
        safe = torch.where(small, torch.ones_like(decayed), decayed)
        mean = torch.where(small, 1.0 - 0.5 * decayed, -torch.expm1(-safe) / safe)
        latents = decayed.new_zeros(len(decayed), size - 1)
        factor = torch.cat([(-decayed).exp().unsqueeze(-1), latents + 1.0], dim=-1)
        return factor, torch.cat([(self.drift * length * mean).unsqueeze(-1), latents], dim=-1)

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """Tensors that gradients may be wanted of."""
        return (self.decay, self.drift, self.weights, *self.network)


Solver = Callable[[Flow, Tensor, Tensor, Tensor], Tensor]
"""Flow, states [B, 1 + Z], years of their start [B], lengths in years, of any sign [B] -> states after them."""


@dataclass(frozen=True)
class Split:
    """Strang splitting: half a step of Gompertz in closed form, a midpoint step of the networks, half one of Gompertz.

    It is exact without networks, and of second order with them.

    Attributes:
        steps: of each sample, over its own length.

    Source: Strang 1968, SIAM J Numer Anal 5:506.
    """

    steps: int

    def __call__(self, flow: Flow, state: Tensor, start: Tensor, length: Tensor) -> Tensor:
        """Return the states [B, 1 + Z] after ``length`` years."""
        step = length / self.steps
        half, whole = (flow.gompertz(part, state.shape[-1]) for part in (0.5 * step, step))
        wide = step.unsqueeze(-1)
        state = torch.addcmul(half[1], state, half[0])
        for number in range(self.steps):
            years = start + number * step
            middle = torch.addcmul(state, wide, flow.rest(state, years), value=0.5)
            state = torch.addcmul(state, wide, flow.rest(middle, years + 0.5 * step))
            factor, summand = half if number == self.steps - 1 else whole
            state = torch.addcmul(summand, state, factor)
        return state


@dataclass(frozen=True)
class Dopri5:
    """Dormand & Prince of torchdiffeq; each sample's time runs from 0 to 1, so that one grid serves them all.

    Attributes:
        tolerance: relative and absolute.
        adjoint: whether gradients are integrated backwards instead of remembered.
    """

    tolerance: float
    adjoint: bool = False

    def __call__(self, flow: Flow, state: Tensor, start: Tensor, length: Tensor) -> Tensor:
        """Return the states [B, 1 + Z] after ``length`` years."""
        torchdiffeq = _torchdiffeq()
        wide = length.unsqueeze(-1)

        def derivative(share: Tensor, at: Tensor) -> Tensor:
            return wide * flow.derivative(at, start + share * length)

        times = torch.tensor([0.0, 1.0], dtype=state.dtype, device=state.device)
        keys: dict[str, Any] = {"method": "dopri5", "rtol": self.tolerance, "atol": self.tolerance}
        if not self.adjoint:
            return _last(torchdiffeq.odeint(derivative, state, times, **keys))
        # Without them, odeint_adjoint returns no gradient of tensors that its function has closed over, and no error.
        wanted = tuple(tensor for tensor in flow.parameters if tensor.requires_grad)
        return _last(torchdiffeq.odeint_adjoint(derivative, state, times, adjoint_params=wanted, **keys))


def _last(states: Tensor) -> Tensor:
    return states[-1]


def _torchdiffeq() -> Any:
    try:
        import torchdiffeq
    except ImportError as error:
        raise UserError(
            f"growth.solver=dopri5 needs torchdiffeq, which cannot be imported ({error}): pip install 'menvae[growth]'"
        ) from error
    return torchdiffeq


def solver_of(name: str, *, steps: int, tolerance: float, adjoint: bool) -> Solver:
    """Return a solver by its name.

    Raises:
        UserError: torchdiffeq is missing, or ``adjoint`` is wanted of the split step.
    """
    if name == "split":
        if adjoint:
            raise UserError("growth.adjoint=true needs growth.solver=dopri5; the split step remembers its few steps")
        return Split(steps)
    _torchdiffeq()
    return Dopri5(tolerance, adjoint)


def sensitivities(
    network: Network, solver: Solver, state: Tensor, times: tuple[Tensor, Tensor], gompertz: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Differentiate the ends of flows by the weights of the networks, where all of these are 0.

    Args:
        network: of the features.
        solver: that is differentiated.
        state: at the start [B, 1 + Z].
        times: years of the start, and lengths [B] each.
        gompertz: decay and drift [B] each.

    Returns:
        Derivative of the log volume by the weights of the volume, and of any latent by its own weights [B, H] each.
    """
    weights = state.new_zeros(len(state), len(network.bias), state.shape[-1]).requires_grad_()
    end = solver(Flow(network, *gompertz, weights), state, *times)
    # Where weights are 0, no latent depends on those of the volume, nor the volume on those of the latents.
    (by_weights,) = torch.autograd.grad(end[:, :2].sum(), weights)
    return by_weights[..., 0], by_weights[..., 1]
