"""Flows of a cohort by the split step and by torchdiffeq, interleaved in one run, at the same accuracy.

40 patients have a log volume and 43 latents, and five visits on days of their own. Their states are wanted at each:

- union: `torchdiffeq.odeint` of all patients over the union of all visits, as it is mostly called
- own times: the same with each patient's time running from 0 to 1 between visits, `menvae.growth.flows.Dopri5`
- split: `menvae.growth.flows.Split`

Every way takes its cheapest setting that is within 1e-4 of dopri5 at a tolerance of 1e-11. Times are process-CPU
milliseconds. The exit status is 1 when the split step is not five times faster than the union.

    python tests/benchmarks/latent_ode.py --repeats 7
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping

import numpy as np
import torch
import torchdiffeq
from interleaved import at_least, judged, noted, show, take_turns
from torch import Tensor

from menvae.growth.flows import Dopri5, Flow, Network, Solver, Split

PATIENTS, LATENTS, VISITS, WIDTH = 40, 43, 5, 32
ACCURACY = 1e-4
GOAL = 5.0
STEPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
TOLERANCES = tuple(10.0 ** (-0.5 * power) for power in range(2, 20))


def cohort(strength: float) -> tuple[Flow, Tensor, Tensor]:
    """Return a flow, first states [N, 1 + Z] and years of visits [N, V].

    Args:
        strength: of the networks; 1: they add .05 a year to growth, and .1 to latents, as `latent_ode` expects.
    """
    generator = np.random.default_rng(0)
    sizes = strength * np.array([0.05] + [0.1] * LATENTS) / np.sqrt(WIDTH)
    weights = torch.from_numpy(generator.normal(0.0, sizes, (WIDTH, 1 + LATENTS)))
    decay = torch.from_numpy(generator.uniform(0.02, 0.3, PATIENTS))
    latents = generator.normal(size=(PATIENTS, LATENTS))
    states = torch.from_numpy(np.column_stack([generator.normal(9.0, 1.0, PATIENTS), latents]))
    gaps = generator.uniform(0.25, 1.5, (PATIENTS, VISITS - 1))
    years = torch.from_numpy(np.concatenate([np.zeros((PATIENTS, 1)), gaps.cumsum(axis=1)], axis=1))
    return Flow(Network.drawn(LATENTS, WIDTH, seed=0), decay, 11.3 * decay, weights), states, years


def from_visit_to_visit(solver: Solver, flow: Flow, state: Tensor, years: Tensor) -> Tensor:
    """Return the states at all visits [N, V, 1 + Z]."""
    found = [state]
    for before, after in zip(years.T[:-1], years.T[1:], strict=True):
        found.append(solver(flow, found[-1], before, after - before))
    return torch.stack(found, dim=1)


def over_the_union(tolerance: float, flow: Flow, state: Tensor, years: Tensor) -> Tensor:
    """Return the same, from states of all patients at the visits of all."""
    union, place = years.unique(return_inverse=True)

    def derivative(time: Tensor, at: Tensor) -> Tensor:
        return flow.derivative(at, time.expand(len(at)))

    states = torchdiffeq.odeint(derivative, state, union, method="dopri5", rtol=tolerance, atol=tolerance)
    return states[place, torch.arange(len(state)).unsqueeze(-1)]


Variant = Callable[[], Tensor]


def cheapest(variants: Mapping[str, Variant], true: Tensor) -> tuple[str, Variant]:
    """Return the first variant that is accurate."""
    for name, variant in variants.items():
        error = float((variant() - true).abs().max())
        if error <= ACCURACY:
            print(f"{name}: largest error {error:.1e}")
            return name, variant
    raise SystemExit(f"none of {', '.join(variants)} is within {ACCURACY}")


def compared(strength: float, repeats: int) -> tuple[float, float]:
    """Time all ways, and return how many times the split step's time those over the union and with own times take."""
    problem = cohort(strength)
    true = from_visit_to_visit(Dopri5(1e-11), *problem)
    chosen = dict(
        cheapest(variants, true)
        for variants in (
            {f"union, tolerance {size:.1e}": lambda size=size: over_the_union(size, *problem) for size in TOLERANCES},
            {
                f"own times, tolerance {size:.1e}": lambda size=size: from_visit_to_visit(Dopri5(size), *problem)
                for size in TOLERANCES
            },
            {
                f"split, {steps} steps": lambda steps=steps: from_visit_to_visit(Split(steps), *problem)
                for steps in STEPS
            },
        )
    )
    union, own, split = chosen
    ratios = show(take_turns(chosen, repeats), split)
    return ratios[union], ratios[own]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    of_union, of_own = compared(1.0, repeats)
    noted("dopri5 with own times over the split step", of_own)
    noted("union over the split step, with networks three times as strong", compared(3.0, repeats)[0])
    return judged([at_least("odeint over the union of visits over the split step", of_union, GOAL)])


if __name__ == "__main__":
    sys.exit(main())
